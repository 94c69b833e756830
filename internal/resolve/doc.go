// Package resolve asks DNS where a name's servers are and for how long that
// holds: addresses (A, AAAA), or services (SRV). It keeps nothing, and does
// not know what the answers are for.
//
// Go's own resolver does not tell how long an answer holds, so that whoever
// goes by it either asks too often or learns too late. This one asks the
// servers of /etc/resolv.conf as they stand there at each question, with its
// search list and ndots, or one server that it is given; over UDP, and over
// TCP where the answer is cut short. CNAMEs are followed, and the shortest of
// all times counts. Names in /etc/hosts are found there, and hold for HostsTTL.
package resolve
