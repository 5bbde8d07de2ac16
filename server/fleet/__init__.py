"""Which machine of several should answer a document: the one that holds its layers."""
