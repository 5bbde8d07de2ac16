"""Attacks on a running server by clients that know nothing of it but its published protocol.

`wire` is HTTP/2 below gRPC, `clients` what hostile clients do with it, `attackers` their processes, `polite`
the caller beside them, `watch` the server's memory and CPU meanwhile. `attacks`, `places`, `fuzz`, `parked`,
`silent`, `revoked` and `suites` measure; `scenario` puts them together.
"""
