// Package certs keeps what the TLS listeners show of us: certificates from
// files, chosen by the name that a client asks for, and the keys of session
// tickets. It reads changed files again by itself, and asks a [Source] for what
// is in none. It knows nothing of HTTP, of
// configurations and of who listens.
//
// What is shown is an immutable [tls.Config], replaced whole. A connection keeps
// the one that it began with:
//
//	files ──▶ Load ──▶ Staged ──▶ Adopt ──▶ Config()  ◀── every new connection
//	  ▲                              ▲
//	  └── Watch: changed and good ───┘   changed and bad: said once, and the old stays
package certs
