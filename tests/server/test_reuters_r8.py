"""The head that ships: on the packaged model, and right about plain cases."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from encoder.folder import describe
from server.fetch.manifest import SHIPPED
from server.training.examples import Example, data_of
from server.training.features import read_examples
from server.training.states import open_states
from tests.server.helpers import MINILM, model, settings

FOLDER = SHIPPED / "reuters-r8"
STORIES = {
    "acq": "the company said it agreed to acquire all outstanding shares in a tender offer for dlrs a share",
    "crude": "opec oil ministers said crude output will be cut by one mln barrels per day to lift oil prices",
    "earn": "fourth quarter net shr profit cts vs loss cts net mln dlrs vs mln revs mln vs mln",
    "grain": "the usda said wheat and corn exports rose to mln tonnes after the soviet union bought grain",
    "interest": "the bank raised its prime lending rate to pct from pct citing higher money market rates",
    "money-fx": "the central bank intervened in the currency market and bought dollars to steady the exchange rate",
    "ship": "the tanker was hit in the gulf and shipping sources said port workers are on strike and vessels wait",
    "trade": "the trade deficit widened as imports from japan rose and congress debates a bill on tariffs and quotas",
}


def test_it_belongs_to_the_packaged_model(models: Path) -> None:
    trunk = json.loads((FOLDER / "octavo.json").read_text())["trunk"]
    assert trunk == {"name": MINILM, "digest": describe(models / MINILM).digest}


@pytest.mark.parametrize("scheme", ["fp32", "auto"])
def test_plain_stories_are_classified(models: Path, scheme: str) -> None:
    head, facts = load_file(FOLDER / "head.safetensors"), json.loads((FOLDER / "octavo.json").read_text())
    assert facts["labels"] == list(STORIES)
    assert (facts["pooling"], facts["normalize"]) == ("mean", True)
    documents = [Example(label, story, (label,)) for label, story in STORIES.items()]
    with open_states(settings(model(MINILM, scheme))) as states:  # type: ignore[arg-type]
        data = data_of("classify", documents, multi_label=False, name="stories")
        examples = read_examples(states, data, lambda _: None)
    logits = examples.features @ head["weight"].T + head["bias"]
    assert [facts["labels"][best] for best in logits.argmax(axis=1)] == list(STORIES)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.all(scores.max(axis=1) > 0.5)
