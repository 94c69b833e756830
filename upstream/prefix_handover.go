package upstream

import (
	"encoding/binary"
	"slices"
)

// Prompts is a part of what a pool knows of who was given which prompts, for the
// pool of a process that goes on in its place. Where the entries come from both must
// have made them in the same way.
type Prompts struct {
	// Members by whose numbers the entries are.
	Members []string `json:"members"`
	// Entries of promptSize bytes each: the entry, how many prompts ago it was
	// used, and the number of who was given it.
	Entries []byte `json:"entries"`
}

const (
	promptSize = 8 + 4 + 2
	// promptsPiece is how many slots are looked at for one part: with all in use it is
	// some 300 KiB, and the pool's prompts wait for less than a millisecond.
	promptsPiece = 16 << 10
)

// TellPrompts returns a part of the table, and where the next begins; -1: nowhere.
func (p *Pool) TellPrompts(from int) (told Prompts, next int) {
	x := &p.prefixes
	x.mu.Lock()
	defer x.mu.Unlock()
	end := min(from+promptsPiece, len(x.slots))
	if from >= end {
		return told, -1
	}
	for i := range x.slots[from:end] {
		s := &x.slots[from+i]
		m := x.live[s.holder]
		if m == nil {
			continue
		}
		number := slices.Index(told.Members, m.name)
		if number < 0 {
			number = len(told.Members)
			told.Members = append(told.Members, m.name)
		}
		told.Entries = binary.LittleEndian.AppendUint64(told.Entries, s.entry)
		told.Entries = binary.LittleEndian.AppendUint32(told.Entries, x.now-s.used)
		told.Entries = binary.LittleEndian.AppendUint16(told.Entries, uint16(number))
	}
	if end == len(x.slots) {
		return told, -1
	}
	return told, end
}

// Holders are the lives of the members' engines, by member.
func (p *Pool) Holders() map[string]uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]uint32, len(p.members))
	for _, m := range p.members {
		all[m.name] = m.holder.Load()
	}
	return all
}

// HearPrompts takes over a part of another process' table, as far as the engines are
// the same: holders are theirs, from before that was found out. What this
// one has come to know itself since counts as newer.
func (p *Pool) HearPrompts(told Prompts, holders map[string]uint32) {
	lives := make([]uint32, len(told.Members))
	for i, name := range told.Members {
		lives[i] = holders[name]
	}
	x := &p.prefixes
	x.mu.Lock()
	defer x.mu.Unlock()
	if size := slotsIn(int(p.prefixMemory.Load())); len(x.slots) == 0 {
		x.slots = make([]prefixSlot, size)
	}
	for e := told.Entries; len(e) >= promptSize; e = e[promptSize:] {
		number := int(binary.LittleEndian.Uint16(e[12:]))
		if number < len(lives) && x.live[lives[number]] != nil {
			x.putOld(binary.LittleEndian.Uint64(e), lives[number], binary.LittleEndian.Uint32(e[8:]))
		}
	}
}

// putOld takes a slot for what was used so many prompts before the first of ours,
// where there is one that was used longer ago.
func (x *prefixes) putOld(entry uint64, holder, before uint32) {
	set := x.set(entry)
	oldest, own := 0, 0
	for j := range set {
		s := &set[j]
		if s.holder != 0 && s.entry == entry {
			if s.holder == holder {
				return
			}
			own++
		}
		if x.age(s) > x.age(&set[oldest]) {
			oldest = j
		}
	}
	s := prefixSlot{entry: entry, holder: holder, used: -before}
	if own < prefixHolders && x.age(&set[oldest]) > x.age(&s) {
		set[oldest] = s
	}
}
