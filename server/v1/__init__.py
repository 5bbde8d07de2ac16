"""octavo.v1 without a transport, for every front end: messages become calls, and answers messages."""
