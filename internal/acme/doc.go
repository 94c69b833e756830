// Package acme keeps certificates that an authority gives by the ACME protocol
// (RFC 8555): obtains them, renews them, and answers when the authority asks for
// proof that a domain is ours. certmagic speaks the protocol, keeps the files and
// their locks, decides when a certificate is due and staples OCSP answers; here is
// who keeps on trying, what is said of it, and where the proof is asked for. It
// knows nothing of configurations and opens no listener.
//
// Each domain has a certificate of its own, and a goroutine:
//
//	in storage ──────────────▶ held ──▶ due ──▶ renewed ──▶ held
//	not there  ──▶ obtained ──▶ held     │ failed: said, tried again; the old one is shown on
//	                │ failed: said, tried again after 1, 2, 2, 5, 10 … minutes, or by Nudge
//
// Two processes may share a storage, as two generations do at an upgrade: orders
// are made under a lock file, whoever comes second finds the certificate there,
// and either can answer what the other is asked, from what it has stored.
package acme
