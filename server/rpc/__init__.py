"""The gRPC service `octavo.v1`: converts messages and delegates to `server.inference`."""
