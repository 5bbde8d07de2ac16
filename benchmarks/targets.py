"""The required value and target of each figure, in one table."""

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.figures import Missing, Reading


@dataclass(frozen=True, slots=True)
class Target:
    """A figure's thresholds. `lower` is true where less is better; a figure without `must` is only reported."""

    scenario: str
    id: str
    meaning: str
    must: float | None = None
    reach: float | None = None
    lower: bool = False


class Verdict(StrEnum):
    """How a figure stands against its target."""

    REACHED = "reached"
    MET = "met"
    MISS = "MISS"
    MISSING = "MISSING"
    REPORTED = ""


TARGETS = (
    Target("document", "st_max_diff", "difference to sentence-transformers, fp32, 1 to 510 tokens", 1e-5, lower=True),
    Target("document", "memory_1m_mb", "peak memory for a million tokens over that for 10k", 300, 100, lower=True),
    Target("document", "loop_block_ms", "longest time the event loop was blocked", 50, 15, lower=True),
    Target("document", "first_segment_share", "first streamed segment's time over the total", 2, 0.2, lower=True),
    Target("segmentation", "edit_segments_p50", "segments new after a sentence's edit, median", 2, 1, lower=True),
    Target("segmentation", "edit_segments_p95", "segments new after a sentence's edit, 95 %", 4, 2, lower=True),
    Target("cache", "again_ms", "the same 32k tokens again, new process, from disk, p50", 25, 10, lower=True),
    Target("cache", "again_x", "cold over again", 40, 100),
    Target("cache", "edit_x", "cold over one sentence edited anywhere, median", 15, 30),
    Target("cache", "edit_x_worst", "the same, worst of 50", 6, 12),
    Target("cache", "edit_tokens", "share of tokens recomputed after an edit, median", 3, 1.5, lower=True),
    Target("cache", "edit_overhead_ms", "100k tokens edited, less again and the segments alone", 60, 20, lower=True),
    Target("cache", "second_task_disk_x", "a second head on known states over computing afresh, disk", 25, 45),
    Target("cache", "second_task_memory_x", "the same from memory", 60, 100),
    Target("cache", "cold_overhead", "time with the cache on over off, nothing repeats", 1.05, 1.02, lower=True),
    Target("cache", "identical", "answers equal bit for bit: off, cold, warm, edited, restarted", 1.0),
    Target("faults", "kills_wrong", "wrong answers after kills at random moments of writing", 0, lower=True),
    Target("faults", "kills_failed_starts", "starts that failed after such kills", 0, lower=True),
    Target("faults", "flips_wrong", "wrong answers after random corruptions of values, index, WAL", 0, lower=True),
    Target("faults", "flips_crashes", "crashes after such corruptions", 0, lower=True),
    Target("faults", "leaks", "entries served though a field of the key differs", 0, lower=True),
    Target("load", "server_over_engine", "throughput at saturation over the engine's own with tokenising", 0.88, 0.94),
    Target("load", "overload_goodput", "goodput at 5 times the capacity, over the capacity", 0.85, 0.93),
    Target("load", "overload_in_deadline", "calls taken on then that were answered in time", 0.99, 0.999),
    Target("load", "polite_p99", "nine clients' p99 with a tenth who floods, over without", 2, 1.4, lower=True),
    Target("load", "polite_p99_warm_flood", "the same, a flood of cached documents", 2, 1.4, lower=True),
    Target("load", "interactive_p99", "one-segment calls' p99 beside a bulk document, over alone", 3, 2, lower=True),
    Target("load", "granted_1", "tokens granted in any 60 s over the rate, one server", 1.05, lower=True),
    Target("load", "granted_3", "the same, three servers on one Redis", 1.05, lower=True),
    Target("load", "wasted_segments", "segments computed after cancel or deadline, a request", 1, 0.2, lower=True),
    Target("load", "stall_seen", "a stall of one second shows in P99: 1", 1),
    Target("batch", "batch_complete", "documents that have one row, through a server and in process", 1.0),
    Target("batch", "batch_same", "vectors that are equal bit for bit, both ways", 1.0),
    Target("batch", "batch_kills_wrong", "rows lost, doubled or different after kills and resumes", 0, lower=True),
    Target("batch", "batch_over_engine", "a job's throughput over the engine's own with tokenising", 0.88, 0.95),
    Target("batch", "batch_memory", "peak memory on 100,000 documents over that on 1,000", 1.1, lower=True),
    Target("doors", "clients_unchanged", "clients that embed, meet a limit, wait as told, and end well", 1.0),
    Target("doors", "same_vectors", "vectors through each dialect of HTTP equal to octavo.v1's", 1.0),
    Target("doors", "http_overhead", "one short text over HTTP, p50 over gRPC's", 1.6, 1.2, lower=True),
    Target("doors", "http_throughput", "64 texts of 300 tokens a call, tokens/s over gRPC's", 0.9, 0.97),
    Target("doors", "doors_internal", "generated requests that ended in an error of ours, or never", 0, lower=True),
    Target("doors", "truncated_silently", "tokens of texts up to 60,000 not read and not told", 0, lower=True),
    Target("doors", "kserve_overhead", "tritonclient's time for a short text over our client's", 1.3, 1.1, lower=True),
    Target("doors", "kserve_same_vectors", "vectors equal to octavo.v1's bit for bit", 1.0),
    Target("doors", "kserve_truncated_silently", "tokens that were not read, of texts up to 60,000", 0, lower=True),
    Target("doors", "kserve_internal", "fuzzed calls that ended as INTERNAL or UNKNOWN, or never", 0, lower=True),
    Target("hostile", "hostile_internal", "fuzzed calls that ended as INTERNAL or UNKNOWN", 0, lower=True),
    Target("hostile", "hostile_memory_mb", "growth of memory at the worst attack", 192, 96, lower=True),
    Target("hostile", "hostile_latency", "polite calls' p99 beside the worst attack over alone", 4, 2, lower=True),
    Target("hostile", "hostile_places", "places of 64 stalled calls, 5 s after the deadline", 0, lower=True),
    Target("hostile", "parked_cpu", "CPU of 3,000 documents that wait for their limit", 3, 0.5, lower=True),
    Target("hostile", "parked_p95", "a polite small call's p95 beside them over alone", 1.3, 1.1, lower=True),
    Target("hostile", "silent_deaths", "loops × faults: neither recovered nor told by /livez", 0, lower=True),
    Target("hostile", "revocations_lost", "of 100 revocations beside faults of the file", 0, lower=True),
    Target("hostile", "pythons_passed", "suites passed of 3.11.2, 3.11.7 and 3.13", 1.0),
    Target("first-hour", "partial_unnoticed", "documents cut by a deadline without a word", 0, lower=True),
    Target("first-hour", "outputs_damaged", "devices, FIFOs, links, modes changed by what writes", 0, lower=True),
    Target("first-hour", "tracebacks", "ordinary faults: a traceback or a wrong exit code", 0, lower=True),
    Target("first-hour", "ready_x", "serve until ready over importing torch and loading", 2.5, 1.6, lower=True),
    Target("soak", "soak_internal", "answers of INTERNAL or UNKNOWN", 0, lower=True),
    Target("soak", "soak_lost", "calls without any answer, documents without one final result", 0, lower=True),
    Target("soak", "soak_memory_growth", "growth of resident memory once it has settled", 3, lower=True),
    Target("engine", "x_bf16_512", "tokens/s over transformers bf16 sdpa at its best, 512 tokens each", 1.2, 2),
    Target("engine", "x_bf16_content", "over transformers bf16, eager or compiled, content-defined segments", 1.7, 3),
    Target("engine", "x_naive_content", "over transformers as it loads by default, fp32, one by one", 4, 7),
    Target("engine", "x_ort_int8", "over onnxruntime int8 at its best, content-defined segments", 3, 5),
    Target("engine", "x_openvino", "over OpenVINO bf16 at its best, content-defined segments", 1.6, 3),
    Target("engine", "x_own_bf16", "8-bit over our own bf16, content-defined segments", 1.05, 1.4),
    Target("engine", "x_short", "256 texts of 8 to 64 tokens over transformers bf16 in sorted batches", 1.0, 1.8),
    Target("engine", "query_p50", "a query of 16 tokens: time over transformers bf16's", 1.2, 0.6, lower=True),
    Target("engine", "x_base_content", "x_bf16_content for 12 layers and 768 hidden, random weights", 1.4, 2.5),
    Target("engine", "attention_full", "attention's time over unmasked bf16 SDPA's, no window", 0.55, 0.3, lower=True),
    Target("engine", "attention_64", "attention's time over unmasked bf16 SDPA's, ±64 tokens", 0.35, 0.15, lower=True),
    Target("engine", "bytes_layers", "bytes held for the layers' weights over fp32's", 0.28, lower=True),
    Target("engine", "bytes_model", "bytes held for all weights over fp32's", 0.30, lower=True),
    Target("processors", "forms_identical", "forms, run or emulated, that give the golden states", 1.0),
    Target("processors", "cache_moved", "segments computed anew from another form's cache", 0, lower=True),
    Target("processors", "quantised_same", "quantising MiniLM gives the manifest's digest", 1.0),
    Target("processors", "x_naive_avx2", "AVX2 form over transformers fp32 as it loads, content-defined", 2, 2.6),
    Target("processors", "x_fp32_best_avx2", "AVX2 form over the best exact peer", 1.4, 1.8),
    Target("processors", "x_ort_int8_avx2", "AVX2 form over onnxruntime int8", 1, 1.2),
    Target("processors", "avx512_kept", "AVX-512 form, tokens/s after over before", 0.95, 1.0),
    Target("processors", "amx_x_bf16", "AMX form over transformers bf16 at its best", 1.7, 3),
    Target("processors", "wheel_serves", "the wheel without a compiler gives the golden states", 1.0),
    Target("processors", "generic_x_reference", "the generic form over the plain PyTorch reference", 1, 3),
    Target("fleet", "fleet_same", "answers equal those of one server bit for bit, all methods", 1.0),
    Target("fleet", "fleet_over_one_long", "two replicas' throughput over one server's, long documents", 0.8, 0.9),
    Target("fleet", "fleet_over_one_short", "the same, short calls", 0.25, 0.5),
    Target("fleet", "fleet_hop_ms", "added to a cached document's call by the front, p50", 10, 5, lower=True),
    Target("fleet", "affinity_hits", "segments found over one server's, documents edited five times", 0.95, 0.99),
    Target("fleet", "fleet_kills_lost", "calls without an answer in 30 s while replicas are killed", 0, lower=True),
    Target("fleet", "fleet_kills_wrong", "wrong answers then", 0, lower=True),
    Target("fleet", "rolling_failed", "failed calls during a rolling change of model", 0, lower=True),
    Target("fleet", "scale_up_s", "one to two replicas: seconds until the queue shrinks", 60, 25, lower=True),
    Target("fleet", "affinity_simulated", "segments found over one server's, 1,000 simulated replicas", 0.9, 0.95),
    Target("fleet", "affinity_imbalance", "largest load over the mean, simulated", 1.3, 1.25, lower=True),
    Target("fleet", "ray_batch_same", "rows of a bulk job on Ray that equal a local one's", 1.0),
    Target("fleet", "ray_batch_x", "throughput of a bulk job on Ray over a local one, same cores", 0.8, 0.95),
    Target("tasks", "pii_recall_gap", "personal data lost in long documents against short texts", 1.5, 0.5, lower=True),
    Target("tasks", "pii_duplicates", "entities that overlap, or are split by a segment's edge", 0, lower=True),
    Target("tasks", "pii_offset_errors", "spans that are other text in some unit, or split a word", 0, lower=True),
    Target("tasks", "redact_leaks", "code points of reported spans that survive redaction", 0, lower=True),
    Target("tasks", "r8_accuracy", "the shipped head on R8's test part, fp32", 0.94, 0.96),
    Target("tasks", "r8_8bit_gap", "the same: fp32 less 8 bits", 0.5, 0.1, lower=True),
    Target("tasks", "sparse_error", "sparse vectors against SparseEncoder, fp32, largest", 1e-4, 1e-5, lower=True),
    Target("tasks", "analyze_three_x", "three heads on one trunk over the dearest alone, cold", 1.15, 1.05, lower=True),
    Target("tasks", "warm_head_x", "a cold pass over a further head on states on disk", 25, 45),
    Target("upsert", "upsert_same", "indexes after random edits that equal one built afresh", 1.0),
    Target("upsert", "upsert_bytes", "reply of a sentence's edit in 32k tokens over the full reply", 6, 3, lower=True),
    Target("upsert", "upsert_x", "time of a sentence's edit over a cold embed", 1 / 15, 1 / 30, lower=True),
    Target("upsert", "upsert_vectors", "vectors computed for a sentence's edit, median", 1, lower=True),
    Target("upsert", "upsert_vectors_p95", "the same, 95 %", 2, lower=True),
    Target("upsert", "index_resync_x", "a folder's sync after edits over the first", 1 / 8, 1 / 15, lower=True),
    Target("upsert", "index_kills_wrong", "rows lost, doubled or stale after 50 kills of a sync", 0, lower=True),
    Target("ablation", "ablation_cold_x", "all levers over transformers as it loads, a document never seen", 4, 7),
    Target("ablation", "ablation_flips", "fp32's decisions changed by the defaults, same cuts", 1, 0.3, lower=True),
    Target("ablation", "ablation_edit_x", "all levers over transformers, one sentence edited", 60, 120),
    Target("ablation", "ablation_again_x", "all levers over transformers, the same document again", 150, 400),
    Target("scale", "scale_flat", "time a token of a million tokens over that of 10k", 1.1, 1.03, lower=True),
    Target("fidelity", "cos_mean", "cosine of segment vectors to fp32, mean of 200", 0.9993, 0.9996),
    Target("fidelity", "cos_min", "cosine of segment vectors to fp32, worst of 200", 0.999, 0.9994),
    Target("fidelity", "top10_overlap", "ten nearest of 2,000 segments, shared with fp32", 0.97, 0.985),
    Target("fidelity", "flips", "classifications that differ from fp32's", 1, 0.3, lower=True),
    Target("fidelity", "window_64_flips", "the same with a window of ±64 tokens", lower=True),
    Target("fidelity", "window_64_cos", "cosine of segment vectors to fp32, mean of 200, at ±64 tokens"),
    Target("bench-check", "bench_check_true", "planted slow-downs of 15 % that are caught", 1.0),
    Target("bench-check", "bench_check_false", "quiet runs that fail, of 20", 0, lower=True),
)  # fmt: skip


def of_scenario(scenario: str) -> dict[str, Target]:
    """List the targets of a scenario by figure id, in the table's order."""
    return {target.id: target for target in TARGETS if target.scenario == scenario}


def judge(outcome: Reading, target: Target | None) -> Verdict:
    """Judge a figure by its value; the confidence interval is printed beside it, not argued with."""
    if isinstance(outcome, Missing):
        return Verdict.MISSING
    if target is None or target.must is None:
        return Verdict.REPORTED

    def holds(threshold: float) -> bool:
        return outcome.value <= threshold if target.lower else outcome.value >= threshold

    if not holds(target.must):
        return Verdict.MISS
    return Verdict.REACHED if holds(target.must if target.reach is None else target.reach) else Verdict.MET
