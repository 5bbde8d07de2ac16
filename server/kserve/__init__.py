"""KServe v2 over gRPC: `inference.GRPCInferenceService`, for the clients of Triton and of NVIDIA's embedding services.

messages.py    its messages, in a descriptor pool of their own
tensors.py     tensors on the wire
requests.py    a request's texts, task and options
outputs.py     tasks' answers as tensors
statistics.py  what was answered, by model
servicer.py    the methods

A front end beside `server.rpc` and `server.http`: it converts and delegates to the inference service.
"""
