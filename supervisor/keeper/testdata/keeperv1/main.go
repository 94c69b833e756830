//go:build keeperv1

// Command keeperv1 is the keeper, and the client, of protocol version 1, as it
// was when that version was the only one. It is frozen: engines that were
// started by it may run for months, and today's code is tested against it. A
// mistake found in it later stays here, because it stays in the field too.
// Beside this file all is a copy of the package of then.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"
)

// answer is what the client says after each order.
type answer struct {
	Error string `json:"error,omitempty"`
	State State  `json:"state"`
	Tail  []byte `json:"tail,omitempty"`
}

// main is "keeper --dir DIR", or "client --dir DIR" with orders on stdin.
func main() {
	if len(os.Args) == 4 && os.Args[1] == "keeper" {
		os.Exit(Main(os.Args[3]))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := Attach(ctx, os.Args[3])
	say(c, nil, err)
	if err != nil {
		return
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		tail, err := obey(ctx, c, in.Text())
		say(c, tail, err)
	}
}

// obey does one order.
func obey(ctx context.Context, c *Client, order string) ([]byte, error) {
	var word string
	var n uint64
	_, _ = fmt.Sscan(order, &word, &n) // an order without a number has 0
	switch word {
	case "claim":
		return nil, c.Claim(ctx, n)
	case "stop":
		return nil, c.Stop(ctx, syscall.Signal(n), time.Second)
	case "tail":
		return c.Tail(ctx)
	case "ack":
		return nil, c.Ack(ctx)
	case "end": // wait for it
		for c.State().Phase != Ended {
			select {
			case <-c.Updates():
			case <-c.Lost():
				return nil, ErrLost
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return nil, nil
	}
	return nil, fmt.Errorf("no such order: %s", order)
}

func say(c *Client, tail []byte, err error) {
	a := answer{Tail: tail}
	if err != nil {
		a.Error = err.Error()
	}
	if c != nil {
		a.State = c.State()
	}
	_ = json.NewEncoder(os.Stdout).Encode(a) // nobody is left to tell
}
