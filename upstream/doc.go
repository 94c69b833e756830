// Package upstream says who can serve now, and carries bytes to them: the pool
// that the supervisor writes and the balancer reads, the leases on its members,
// and the HTTP/1.1 transport to one member. It knows neither how members come
// to live nor where a request comes from.
package upstream
