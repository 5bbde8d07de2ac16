"""HTTP: the dialects of OpenAI, text-embeddings-inference, Jina and Cohere, and octavo.v1 as JSON.

Each dialect translates its requests into messages of octavo.v1, which the same methods answer as over gRPC.

address.py, listener.py       sockets and connections: uvicorn, with bounds on what a peer may hold
routes.py, endpoint.py        all paths, and the outermost layer of each: admission, deadline, errors, metrics
reading.py, errors.py         a body, bounded while it is read, as JSON; an error's headers
octavo.py                     octavo.v1's methods, as the dialects call them
openai.py, cohere.py, rerank.py, tei.py, states.py
inputs.py, truncation.py, ranking.py, tei_bodies.py    what these share
rpc_json.py, openapi.py       every method of octavo.v1 as JSON; the document of all paths
"""
