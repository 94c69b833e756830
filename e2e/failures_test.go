//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestOneOfFourDies: at 40 requests/s one of four workers is killed, or exits
// by itself. Streams that had begun on it break, visibly; what it had not begun to
// answer, and what comes after, is answered by others; and the new engine answers
// as soon as it has loaded.
func TestOneOfFourDies(t *testing.T) {
	for _, s := range subjects() {
		for how, die := range map[string]func(workerStatus){
			"kill -9": func(w workerStatus) { _ = syscall.Kill(w.PID, syscall.SIGKILL) },
			"exit 0":  func(w workerStatus) { s.exit(w.Address) },
		} {
			t.Run(s.name+", "+how, func(t *testing.T) {
				m := start(t, s.pool(t, 4)).allReady()
				victim := m.workers()[1]
				var mu sync.Mutex
				var all []seen
				var clients sync.WaitGroup
				var dead time.Time
				tick := time.NewTicker(time.Second / 40)
				defer tick.Stop()
				dying := make(chan struct{})
				enough := 0
				for n := 0; enough < 40; n++ {
					<-tick.C
					if n > 40*int(patience.Seconds()) {
						t.Errorf("no next engine for all that time: %+v", m.worker(victim.Name))
						break
					}
					clients.Go(func() {
						r := s.ask(m, n, n%4 == 0)
						mu.Lock()
						defer mu.Unlock()
						all = append(all, r)
					})
					if n == 80 {
						// Some to which no answer has begun are to be there when it dies.
						before := m.worker(victim.Name).InFlight
						for i := range 24 {
							clients.Go(func() {
								r := s.ask(m, 10000+i, false)
								mu.Lock()
								defer mu.Unlock()
								all = append(all, r)
							})
						}
						go func() {
							defer close(dying)
							for try := 0; try < 50 && m.worker(victim.Name).InFlight < before+3; try++ {
								time.Sleep(time.Millisecond)
							}
							die(victim)
							for alive(victim.PID) {
								time.Sleep(time.Millisecond)
							}
							dead = time.Now()
						}()
					}
					// On for a second after the next engine is ready.
					if n > 80 && n%10 == 0 {
						if w := m.worker(victim.Name); w.State == "ready" && w.PID != victim.PID {
							enough += 10
						}
					}
				}
				clients.Wait()
				<-dying
				m.judgeDeath(&s, all, victim, dead)
				m.stop()
			})
		}
	}
}

// judgeDeath looks at what clients saw of a worker's death.
func (m *master) judgeDeath(s *subject, all []seen, victim workerStatus, dead time.Time) {
	m.t.Helper()
	now := m.worker(victim.Name)
	var first time.Time
	right, broke := 0, 0
	for _, r := range all {
		if r.err == nil && r.status == 200 && s.exact(r.body, r.n, r.stream) {
			right++
			if r.pid == fmt.Sprint(now.PID) && (first.IsZero() || r.head.Before(first)) {
				first = r.head
			}
			continue
		}
		switch {
		case !r.began.Before(dead):
			m.t.Errorf("it came after the death and failed: %v", r)
		case r.status == 200 && r.err != nil && r.pid == fmt.Sprint(victim.PID):
			broke++ // its answer had begun
		default:
			m.t.Errorf("no answer to it had begun on the engine that died: %v", r)
		}
	}
	load := time.Duration(m.metric("stoker_worker_load_seconds", `worker="`+victim.Name+`"`) * float64(time.Second))
	m.t.Logf("%d right, %d broken off; first answer of the next engine %v after the death, it loaded for %v", right, broke, first.Sub(dead), load)
	if first.IsZero() || first.Sub(dead) > load+time.Second {
		m.t.Errorf("the first answer of the next engine came %v after the death, it loaded for %v", first.Sub(dead), load)
	}
	// Of some 14 requests in flight a quarter was there, or half of them by chance.
	if broke > 10 {
		m.t.Errorf("%d requests failed", broke)
	}
}

// TestCrashLoopAtStart: engines that never come up cost little, whatever they
// print, and nobody who asks meanwhile waits for longer than the queue allows.
func TestCrashLoopAtStart(t *testing.T) {
	for name, c := range map[string]struct {
		pool string
		// least starts that there must be: Python takes its time.
		least int
	}{
		"a shell":     {"[[pools]]\nname = \"p\"\nworkers = 4\ncommand = " + list("sh", "-c", "echo no such model {socket}; exit 1") + "\n", 8},
		"demo engine": {strings.Replace(demoPool(t, 4), `"engine",`, `"engine","--exit-at-start","3",`, 1), 8},
		"FastAPI":     {fastapi(t, 4) + "env.NO_MODEL = \"/no/such/model\"\n", 4},
	} {
		t.Run(name, func(t *testing.T) {
			const watch = 10 * time.Second
			began := time.Now()
			bill := filepath.Join(t.TempDir(), "bill")
			m := start(t, "access_log = \"off\"\n"+strings.NewReplacer(
				"restart.delay = \"100ms\"", "", "workers = 4", "workers = 4\nqueue.timeout = \"2s\"",
				"command = [", "command = ["+strings.Trim(list(self, "meter", bill), "[]")+",").Replace(c.pool))
			m.eventually("the door open", func() bool { return m.answersAdmin() })

			// The first one comes while all of it may still go well.
			asked := time.Now()
			a := (&caller{address: m.address}).get("/work")
			if took := time.Since(asked); a.outcome != complete || a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), `"server_unavailable"`) || took > 2*time.Second+time.Second {
				t.Errorf("after %v: %v", took, a)
			}
			m.eventually("the queue's time-out over, and two deaths of each", func() bool {
				starts, _ := paid(t, bill) // who asked the master would make it work
				return time.Since(began) > 3*time.Second && starts >= 8
			})
			asked = time.Now()
			a = (&caller{address: m.address}).get("/work")
			if took := time.Since(asked); a.status != 503 || !strings.Contains(string(a.body), `"server_unavailable"`) || took > 500*time.Millisecond {
				t.Errorf("when nothing is to be hoped for it took %v: %v", took, a)
			}
			time.Sleep(watch - time.Since(began)) // it is what happens in this time that is measured
			log := len(m.logText())
			// What it said the last time is there, if not in the log.
			if r := m.crash("latest"); r.Output == "" {
				t.Errorf("the report of a death has no output: %+v", r)
			}
			m.signal(syscall.SIGTERM)
			m.exit(patience)
			m.nothingLeft()

			all := m.cmd.ProcessState.UserTime() + m.cmd.ProcessState.SystemTime() // children included
			starts, engines := paid(t, bill)
			t.Logf("in %v: %d starts, %d bytes of log, %v CPU of master and keepers, %v of engines", watch, starts, log, all-engines, engines)
			if starts > 24 || starts < c.least {
				t.Errorf("%d starts", starts)
			}
			// Each says why at each start. It is in the log once, or twice where another was
			// faster than the one that may say it at once, or more often where they take
			// so long to say it that they might live.
			if times := m.saidByEngines(); log > 16<<10 || times < 1 {
				t.Errorf("%d bytes of log, in which engines say why %d times:\n%s", log, times, m.logText())
			}
			// What engines use is their own: of Python twenty starts alone are more than this.
			if ours := all - engines; !raced && ours > watch/20 {
				t.Errorf("master and keepers have used %v of CPU in %v", ours, watch)
			}
		})
	}
}

// saidByEngines is how often an engine says in the log why it does not start.
func (m *master) saidByEngines() (times int) {
	for line := range strings.Lines(m.logText()) {
		said := strings.HasPrefix(line, "[") && strings.Contains(line, "no such model") && !strings.Contains(line, "raise")
		if said || strings.HasPrefix(line, "[") && strings.Contains(line, "exiting at once") {
			times++
		}
	}
	return times
}

// meterMain runs an engine and writes down what it and its own children, and this
// process around it, have used: who waits for an engine is told the sum with
// everybody's below it, and could not take it apart.
func meterMain(bill string, command []string) int {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM) // the engine has its own
	err := cmd.Run()
	used := time.Duration(0)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return 98
		}
		used += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	f, openErr := os.OpenFile(bill, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if openErr != nil {
		return 98
	}
	defer f.Close()
	fmt.Fprintln(f, used.Nanoseconds())
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode()
	}
	return 99
}

// paid is what meters have written down: how many engines, and what they have used together.
func paid(t *testing.T, bill string) (engines int, used time.Duration) {
	t.Helper()
	text, err := os.ReadFile(bill)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for word := range strings.FieldsSeq(string(text)) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		engines++
		used += time.Duration(n)
	}
	return engines, used
}

// TestHangUps: clients that hang up before the first byte, and within a stream,
// over both versions of HTTP; the engine knows of each within a second.
func TestHangUps(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) {
			m := start(t, s.pool(t, 2)).allReady()
			var clients sync.WaitGroup
			var slowest atomic.Int64
			total := 0
			for _, version := range []int{1, 2} {
				for _, stream := range []bool{false, true} {
					for range 10 {
						total++
						n := total
						clients.Go(func() {
							gone, err := s.hangUp(m, n, version, stream)
							if err != nil {
								t.Errorf("request %d (stream %t) over HTTP/%d: %v", n, stream, version, err)
								return
							}
							for !s.knows(m, n) {
								if time.Since(gone) > 10*time.Second { // which is too late in any case
									t.Errorf("request %d (stream %t) over HTTP/%d: the engine never knew", n, stream, version)
									return
								}
								time.Sleep(10 * time.Millisecond)
							}
							slowest.Store(max(slowest.Load(), int64(time.Since(gone))))
						})
					}
				}
			}
			clients.Wait()
			t.Logf("%d hang-ups; the last was known after %v", total, time.Duration(slowest.Load()))
			if took := time.Duration(slowest.Load()); took > time.Second {
				t.Errorf("an engine knew of a hang-up after %v", took)
			}
			m.eventually("all counted", func() bool {
				return m.metric("stoker_request_outcomes_total", `outcome="client_gone"`) == float64(total)
			})
			if got := m.metric("stoker_breaker_opened_total"); got != 0 {
				t.Errorf("%v breakers opened", got)
			}
			m.stop()
		})
	}
}

// hangUp makes a request that would take long, goes when the engine has it (a
// stream: when it has begun), and says when that was.
func (s *subject) hangUp(m *master, n, version int, stream bool) (time.Time, error) {
	request, err := s.request(m, n, stream)
	if err != nil {
		return time.Time{}, err
	}
	switch {
	case request.Method == http.MethodGet && stream:
		request.URL.RawQuery = "events=1000&ms=50"
	case request.Method == http.MethodGet:
		request.URL.Path, request.URL.RawQuery = fmt.Sprintf("/silent/%d", n), ""
	default:
		body := fmt.Sprintf(`{"prompt":"%d","seed":1,"ignore_eos":true,"max_tokens":10000,"stream":%t}`, n, stream)
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	request.Header.Set("X-Request-Id", fmt.Sprintf("r%d", n))
	ctx, hangUp := context.WithTimeout(m.t.Context(), patience)
	defer hangUp()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(version == 1)
	transport.Protocols.SetUnencryptedHTTP2(version == 2)
	defer transport.CloseIdleConnections()
	if !stream {
		time.AfterFunc(300*time.Millisecond, hangUp) // it is on the engine by then, or was never sent
		response, err := transport.RoundTrip(request.WithContext(ctx))
		if err == nil {
			response.Body.Close()
			return time.Time{}, fmt.Errorf("answered with %s", response.Status)
		}
		return time.Now(), nil
	}
	response, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return time.Time{}, err
	}
	_, err = io.ReadFull(response.Body, make([]byte, 100))
	hangUp()
	response.Body.Close()
	return time.Now(), err
}

// knows says whether an engine has learned that the nth request's client has gone.
func (s *subject) knows(m *master, n int) bool {
	if s.name == "FastAPI" {
		return m.noted(fmt.Sprintf("gone %d", n))
	}
	for _, w := range m.workers() {
		text, err := askEngine(w.Address, "/stats")
		if err == nil && regexp.MustCompile(fmt.Sprintf(`"r%d":\{"seen":1,"state":"abort"`, n)).MatchString(text) {
			return true
		}
	}
	return false
}
