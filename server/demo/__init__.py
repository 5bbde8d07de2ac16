"""`python -m server.demo`: a real server, a real model, a real document, from the command line."""
