package systemd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// State is one assignment of a notification.
type State string

// States without a value.
const (
	// Ready: the start, or the reload that was announced, has succeeded.
	Ready State = daemon.SdNotifyReady
	// Stopping: the end has begun; the manager takes it for a stop.
	Stopping State = daemon.SdNotifyStopping
	// Watchdog: we live. Due more often than [WatchdogInterval].
	Watchdog State = daemon.SdNotifyWatchdog
)

// Reloading says that a reload has begun just now; Ready ends it. Managers of
// Type=notify-reload believe it only with the clock that it carries.
func Reloading() State {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return daemon.SdNotifyReloading // without the clock, as before systemd 253
	}
	return State(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Status is one line for people, which "systemctl status" shows.
func Status(text string) State {
	// A line break would begin another assignment.
	return State("STATUS=" + strings.Join(strings.FieldsFunc(text, isLineBreak), " "))
}

func isLineBreak(r rune) bool { return r == '\n' || r == '\r' || r == 0 }

// MainPID makes another process of the service its main one.
func MainPID(pid int) State { return State("MAINPID=" + strconv.Itoa(pid)) }

// ExtendTimeout asks for patience with the start, stop or reload that is going
// on: once its own time limit is over the manager waits for d after each of these.
func ExtendTimeout(d time.Duration) State {
	return State(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// WatchdogInterval is the time after which the manager ends a service that has
// not sent Watchdog; 0 when it does not watch this process. WATCHDOG_PID is
// unset, so that the process which an upgrade starts (another pid, the same
// watchdog) finds itself watched too.
func WatchdogInterval() (time.Duration, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("read the watchdog's interval: %w", err)
	}
	if interval > 0 {
		_ = os.Unsetenv("WATCHDOG_PID") // never fails
	}
	return interval, nil
}
