//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cutter stands before a real engine as part of its worker, passes every
// byte on, and does what a plan says at an exact place of an answer: a real
// engine is too fast to be killed at its fifth token. Whoever gets a POST first
// takes the next plan of a directory, and it is done once.
//
//	PLACE ACT
//	event:N      after so many events      kill   SIGKILL to the engine and to itself
//	byte:N       after so many bytes       close  the connection is reset
//	before:TEXT  before the event with it  end    the answer ends as if it were whole
//	after:TEXT   after the event with it   stop   SIGSTOP to both
//	                                       term   SIGTERM to the engine, no more is heard of it, and it is killed in the end

// cutter is the command line of one before an engine.
func cutter(plans string, engine ...string) []string {
	return append([]string{self, "cutter", "--port", "{port}", "--plans", plans, "--"}, engine...)
}

func cutterMain(args []string) {
	set := flag.NewFlagSet("cutter", flag.ExitOnError)
	port := set.Int("port", 0, "to listen on")
	plans := set.String("plans", "", "directory")
	_ = set.Parse(args)
	behind, err := net.Listen("tcp", "127.0.0.1:0")
	exitOn(err)
	address := behind.Addr().String()
	behind.Close() // the engine's from now on
	_, enginePort, _ := net.SplitHostPort(address)
	command := slices.Clone(set.Args())
	for i := range command {
		command[i] = strings.ReplaceAll(command[i], "{engine_port}", enginePort)
	}
	engine := exec.Command(command[0], command[1:]...)
	engine.Stdout, engine.Stderr = os.Stdout, os.Stderr
	exitOn(engine.Start())
	door, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(*port)))
	exitOn(err)
	go func() {
		_ = engine.Wait()
		os.Exit(0)
	}()
	for {
		conn, err := door.Accept()
		exitOn(err)
		go (&cut{plans: *plans, engine: engine.Process, client: conn.(*net.TCPConn)}).pass(address)
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "cutter:", err)
		os.Exit(1)
	}
}

// cut is one connection.
type cut struct {
	plans   string
	engine  *os.Process
	client  *net.TCPConn
	place   string
	act     string
	planned chan struct{} // closed once it is known whether there is a plan
}

func (c *cut) pass(address string) {
	defer c.client.Close()
	engine, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer engine.Close()
	c.planned = make(chan struct{})
	go func() {
		c.requests(engine)
		_ = engine.(*net.TCPConn).CloseWrite()
	}()
	c.answers(engine.(*net.TCPConn))
}

// requests passes on what the client says. The first POST may have a plan.
func (c *cut) requests(engine net.Conn) {
	buf := make([]byte, 64<<10)
	known := false
	for {
		n, err := c.client.Read(buf)
		if n > 0 && !known {
			known = true
			if bytes.HasPrefix(buf[:n], []byte("POST")) {
				c.take()
			}
			close(c.planned)
		}
		if n > 0 {
			if _, err := engine.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !known {
				close(c.planned)
			}
			return
		}
	}
}

// take takes the next plan.
func (c *cut) take() {
	files, _ := filepath.Glob(filepath.Join(c.plans, "plan-*"))
	slices.Sort(files)
	for _, f := range files {
		mine := filepath.Join(c.plans, fmt.Sprintf("taken-%d-%s", os.Getpid(), filepath.Base(f)))
		if os.Rename(f, mine) != nil {
			continue // another was faster
		}
		text, _ := os.ReadFile(mine)
		c.place, c.act, _ = strings.Cut(string(text), " ")
		return
	}
}

// answers passes on what the engine says, up to the place.
func (c *cut) answers(engine *net.TCPConn) {
	var held []byte
	body, passed := false, 0 // of the body, in events or bytes
	buf := make([]byte, 64<<10)
	for {
		_ = engine.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := engine.Read(buf)
		held = append(held, buf[:n]...)
		if n > 0 {
			<-c.planned
		}
		for c.act != "" && len(held) > 0 {
			size := c.next(held, body)
			if size == 0 {
				break
			}
			piece := held[:size]
			if body && c.here(piece, passed) {
				_ = engine.SetReadDeadline(time.Time{})
				c.do(piece, engine)
				return
			}
			if _, err := c.client.Write(piece); err != nil {
				return
			}
			if body && strings.HasPrefix(c.place, "byte:") {
				passed += size
			} else if body {
				passed++
			}
			body = body || bytes.HasSuffix(piece, []byte("\r\n\r\n"))
			held = held[size:]
			if body && c.act == "" {
				break
			}
		}
		timeout := errors.Is(err, os.ErrDeadlineExceeded)
		if c.act == "" || timeout || err != nil {
			if _, err := c.client.Write(held); err != nil {
				return
			}
			held = nil
		}
		if err != nil && !timeout {
			return
		}
	}
}

// next is how long the next piece is: the head, an event, a byte; 0: not whole.
func (c *cut) next(held []byte, body bool) int {
	end := []byte("\r\n\r\n")
	if body {
		if strings.HasPrefix(c.place, "byte:") {
			return 1
		}
		end = []byte("\n\n")
	}
	i := bytes.Index(held, end)
	if i < 0 {
		return 0
	}
	return i + len(end)
}

// here says whether the place is at, or behind, the next piece.
func (c *cut) here(piece []byte, passed int) bool {
	kind, value, _ := strings.Cut(c.place, ":")
	if kind == "event" || kind == "byte" {
		n, _ := strconv.Atoi(value)
		return passed == n
	}
	return bytes.Contains(piece, []byte(value))
}

func (c *cut) do(piece []byte, engine net.Conn) {
	if strings.HasPrefix(c.place, "after:") {
		_, _ = c.client.Write(piece)
	}
	if c.act != "kill" { // what was passed on is on its way
		time.Sleep(time.Millisecond)
	}
	switch c.act {
	case "kill":
		// What was sent is read before the end is noticed: unlike a process, its socket has no hurry.
		_ = c.engine.Kill()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "close":
		_ = c.client.SetLinger(0)
	case "term":
		// It is silent until its clients have gone, for half a minute. That it is so fast
		// as to have said all by now is not what is meant.
		_ = c.engine.Signal(syscall.SIGTERM)
		_ = engine.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.Copy(io.Discard, engine)
		_ = c.engine.Kill()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "end":
		_, _ = io.WriteString(c.client, "\r\n0\r\n\r\n")
	case "stop":
		_ = c.engine.Signal(syscall.SIGSTOP)
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
}
