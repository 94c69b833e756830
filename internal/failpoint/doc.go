// Package failpoint lets tests make a process die, hang or exit at a named
// point of its life. The points exist only in a binary built with the tag
// failpoints; in any other Hit is an empty function that costs nothing.
//
// The file that STOKER_FAILPOINTS names is read at each hit: lines of
// "POINT=ACTION", where the action is kill (by KILL, as an operator or the
// kernel would), hang (for ever), exit (with code 9) or pause=DURATION. A file,
// not a value, so that a test can change its mind while processes run that have
// inherited the environment. Each point that is acted upon is first noted, a line
// each, in a file of the same name with ".hits" behind it.
package failpoint
