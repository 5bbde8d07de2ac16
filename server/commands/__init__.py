"""What the server's room adds to the command `octavo`. Importing it imports neither torch nor gRPC."""
