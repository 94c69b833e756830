package recorder

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sys/unix"
)

// blockRoom is how many bytes a block holds. Most heads and bodies of small
// requests fill one or two: blocks of 2 KiB held mostly air.
const blockRoom = 512

// linkSize is what says which block comes after one. Links lie apart: the blocks
// that are filled next are those that were filled longest ago, and to wait for
// memory at each one was a third of what recording cost.
const linkSize = 4

// blockSize is how much of the budget a block takes.
const blockSize = blockRoom + linkSize

// block is the number of one, from 1; 0 is none.
type block uint32

// arena is the budget, cut into blocks: one mapping of memory outside Go's heap.
// On the heap the garbage collector would let the process grow by twice as much.
// The kernel gives a page when a block of it is first used, and blocks are used
// again, the last one first, before one more is: what is resident is what was
// once needed at the same time.
type arena struct {
	blocks []byte
	links  []byte
	free   chain
	used   block // the last that was ever used
}

// newArena reserves memory, which goes with owner.
func newArena[T any](owner *T, budget int64) (arena, error) {
	n := min(budget/blockSize, math.MaxInt32)
	memory, err := unix.Mmap(-1, 0, int(n*blockSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return arena{}, fmt.Errorf("reserve %d bytes for recorded requests (recorder.memory_mib): %w", n*blockSize, err)
	}
	// A huge page would make 2 MiB resident for one block. Kernels without them refuse, and are right.
	_ = unix.Madvise(memory, unix.MADV_NOHUGEPAGE)
	runtime.AddCleanup(owner, func(m []byte) { _ = unix.Munmap(m) }, memory)
	return arena{blocks: memory[:n*blockRoom], links: memory[n*blockRoom:]}, nil
}

// room is what a block may hold.
func (a *arena) room(b block) []byte {
	at := (int(b) - 1) * blockRoom
	return a.blocks[at : at+blockRoom : at+blockRoom]
}

func (a *arena) next(b block) block {
	return block(binary.NativeEndian.Uint32(a.links[(int(b)-1)*linkSize:]))
}

func (a *arena) link(b, next block) {
	binary.NativeEndian.PutUint32(a.links[(int(b)-1)*linkSize:], uint32(next))
}

// take gives up to n blocks, none when the budget is used up.
func (a *arena) take(n int) chain {
	var c chain
	for ; n > 0; n-- {
		b := a.free.shift(a)
		if b == 0 {
			if int(a.used) == len(a.blocks)/blockRoom {
				break
			}
			a.used++
			b = a.used
		}
		c.push(a, b)
	}
	return c
}

// chain is blocks, in order, all of them full but the last.
type chain struct {
	first, last block
	blocks      int
	size        int64 // bytes in them
}

func (c *chain) push(a *arena, b block) {
	a.link(b, 0)
	if c.last == 0 {
		c.first = b
	} else {
		a.link(c.last, b)
	}
	c.last = b
	c.blocks++
}

// shift takes the oldest block out, with what is in it; 0: there is none.
func (c *chain) shift(a *arena) block {
	b := c.first
	if b == 0 {
		return 0
	}
	if c.first = a.next(b); c.first == 0 {
		c.last = 0
	}
	c.blocks--
	c.size = max(c.size-blockRoom, 0)
	return b
}

// prepend moves the blocks of another chain to the front, to be used first.
func (c *chain) prepend(a *arena, other *chain) {
	if other.first == 0 {
		return
	}
	a.link(other.last, c.first)
	if c.last == 0 {
		c.last = other.last
	}
	c.first = other.first
	c.blocks += other.blocks
	*other = chain{}
}

// space is how many bytes the last block still takes.
func (c *chain) space() int { return c.blocks*blockRoom - int(c.size) }

// fill appends as much of p as the last block holds.
func (c *chain) fill(a *arena, p []byte) int {
	space := c.space()
	if space == 0 {
		return 0
	}
	n := copy(a.room(c.last)[blockRoom-space:], p)
	c.size += int64(n)
	return n
}

// append copies a part of what is there, from an offset on, behind to.
func (c *chain) append(a *arena, to []byte, from, length int64) []byte {
	for b := c.first; b != 0 && length > 0; b = a.next(b) {
		if from >= blockRoom {
			from -= blockRoom
			continue
		}
		part := a.room(b)[from:min(blockRoom, from+length)]
		to = append(to, part...)
		length -= int64(len(part))
		from = 0
	}
	return to
}

// bytes is a copy of all.
func (c *chain) bytes(a *arena) []byte { return c.append(a, make([]byte, 0, c.size), 0, c.size) }
