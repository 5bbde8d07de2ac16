"""The server's subcommands of `octavo`. Importing this package imports neither torch nor gRPC."""
