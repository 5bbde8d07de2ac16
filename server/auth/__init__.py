"""Who calls: clients, keys and the authenticator."""
