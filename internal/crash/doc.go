// Package crash keeps reports of engines' deaths on disk, bounded in number and
// size, and reads them again, also when no master runs. It does not know how
// engines die or requests are recorded: it is given both.
//
// A report is a directory whose name sorts by time:
//
//	20260102T150405.000000Z-chat-0/
//	  report.json        the death, the pool's state, a line for each suspect
//	  suspects/001.json  all that was recorded of the first suspect, and so on
//	  output.log         the engine's last output, raw
//
// While an older generation of the master finishes its requests on an engine that
// a newer one owns, each knows its own requests. What the older one adds of a
// death is a directory ID.gN, N its number, and is read as a part of the report.
//
// A report is written under a name that begins with a dot and renamed when it is
// whole, so that a reader never meets half a report. What people have asked an
// engine is in it: nobody but the owner may read it.
package crash
