"""What is computed: the service, and a document's way through it."""
