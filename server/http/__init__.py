"""HTTP: the dialects of OpenAI, text-embeddings-inference, Jina and Cohere, and octavo.v1 as JSON.

Each dialect translates its requests into messages of octavo.v1, which the same code answers as over gRPC.

listener.py    sockets and connections: uvicorn, with bounds on what a peer may hold
endpoint.py    the outermost layer of every path: admission, deadline, errors, metrics
reading.py     a request's body, bounded while it is read, as JSON
errors.py      an error's status and headers
routes.py      all paths
octavo.py      octavo.v1 as JSON; what the other dialects call
openai.py, tei.py, rerank.py
"""
