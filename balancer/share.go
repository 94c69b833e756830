package balancer

import (
	"math/bits"
	"sync/atomic"

	"stoker/config"
)

// destinations are the lanes of a route, each with its share of the requests.
type destinations struct {
	one    *lane // where there is no other
	shares []share
	total  uint64
	// turn counts requests. The golden ratio's multiples, cut to a fraction,
	// fill any interval evenly and in no pattern: of a hundred requests a canary
	// of 5 % gets five, give or take one, and not five in a row.
	turn *atomic.Uint64
}

// share is a lane's part: up to an end, from where the last one had its end.
type share struct {
	lane *lane
	end  uint64
}

func toOne(l *lane) destinations { return destinations{one: l} }

func split(shares []config.Share, lanes map[string]*lane) destinations {
	d := destinations{turn: new(atomic.Uint64)}
	for _, s := range shares {
		d.total += uint64(max(s.Weight, 0))
		d.shares = append(d.shares, share{lanes[s.Pool], d.total})
	}
	return d
}

// next is the lane of the next request.
func (d *destinations) next() *lane {
	if d.one != nil {
		return d.one
	}
	const golden = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	at, _ := bits.Mul64(d.turn.Add(1)*golden, d.total)
	for i := range d.shares {
		if at < d.shares[i].end {
			return d.shares[i].lane
		}
	}
	return d.shares[0].lane // not reached: at < total, the last end
}

// lanes are all of them that get anything.
func (d *destinations) lanes() []*lane {
	if d.one != nil {
		return []*lane{d.one}
	}
	var all []*lane
	var before uint64
	for _, s := range d.shares {
		if s.end > before {
			all = append(all, s.lane)
		}
		before = s.end
	}
	return all
}
