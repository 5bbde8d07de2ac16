"""Attacks on a running server by clients that know only its published protocol.

`wire` is HTTP/2 below gRPC, `clients` has the hostile clients, `attackers` runs them as processes, `polite` is the
well-behaved client beside them, `watch` observes the server's memory and CPU. `attacks`, `places`, `fuzz`, `parked`,
`silent`, `revoked` and `suites` measure; `scenario` combines them.
"""
