package sse

import "bytes"

// Event is what stands between two empty lines. What it holds views the bytes
// that were parsed, or the room that was given for data of several lines.
type Event struct {
	// Type is the field "event"; empty: a message.
	Type []byte
	// Data is the field "data", its lines joined with LF.
	Data []byte
	// HasData: there is one, perhaps empty. Without, it is no event to a client:
	// a comment that keeps the connection open, say.
	HasData bool
	// Error is a field "error", which no standard knows: some engines have said so
	// what went wrong.
	Error []byte
	// ID and Retry are the fields of those names.
	ID, Retry []byte
}

// BOM is the byte order mark, which may stand at a stream's very beginning, and
// is to be taken off there before Parse.
var BOM = []byte("\xef\xbb\xbf")

// Parse reads one event, as Splitter found it. room is used for data of more
// than one line, and is returned, perhaps larger.
func Parse(raw, room []byte) (Event, []byte) {
	var e Event
	room = e.parse(raw, room)
	return e, room
}

// parse is Parse into e, which is empty.
func (e *Event) parse(raw, room []byte) []byte {
	lines := 0
	for len(raw) > 0 {
		var line []byte
		line, raw = cutLine(raw)
		if len(line) == 0 {
			continue
		}
		name, value, found := bytes.Cut(line, colon)
		if found && len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
		switch string(name) {
		case "data":
			switch lines++; lines {
			case 1:
				e.Data = value
			case 2:
				room = append(append(room[:0], e.Data...), '\n')
				room = append(room, value...)
			default:
				room = append(append(room, '\n'), value...)
			}
		case "event":
			e.Type = value
		case "id":
			e.ID = value
		case "retry":
			e.Retry = value
		case "error":
			e.Error = value
		}
	}
	if lines > 1 {
		e.Data = room
	}
	e.HasData = lines > 0
	return room
}

var colon = []byte(":")

// cutLine takes the first line off p, and its end with it.
func cutLine(p []byte) (line, rest []byte) {
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		end = len(p)
	}
	if cr := bytes.IndexByte(p[:end], '\r'); cr >= 0 {
		line, rest = p[:cr], p[cr+1:]
		if len(rest) > 0 && rest[0] == '\n' {
			rest = rest[1:]
		}
		return line, rest
	}
	if end == len(p) {
		return p, nil
	}
	return p[:end], p[end+1:]
}
