"""gRPC: who may call, what is read when, how a call ends. What is asked and answered is in `server.v1`."""
