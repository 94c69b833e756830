package supervisor

import (
	"errors"
	"time"
)

// # Questions
//
// Some ends of streams are those that an engine gives when it is about to end, or
// hangs, while its probes are still good. They prove nothing, as a long thought of
// the model looks the same: but whoever asks at once loses nothing by waiting for
// the answer. So new requests go elsewhere, or wait, from that moment on until the
// engine has proven itself.
//
//	seen                                           questions it: is it true, and what does it cost?
//	a stream without a token for                   yes: hung engines and llama-server after SIGTERM look
//	  token_stall_timeout                            so, and so does a slow one, which answers at once
//	a stream that ended politely without its end   yes: so end those that are told to end
//	a connection that breaks                       no: an engine that died is told of by its keeper, which
//	                                                 is faster; one that lives has proven so
//	an error event, a 5xx                          no: an engine that says what is wrong lives
//	a signal on its way to its process             nothing shows it. Its listener's end does, and is a
//	                                                 refused dial; its process' end is its keeper's news
//
//	a questioned one has                           then
//	no canary to answer: a good probe              is vouched for
//	a canary: a good answer, or bytes of other     is vouched for
//	  answers while a probe is out
//	a canary that is refused (429, 404, 503)       is vouched for, if its probes are good: nobody can know more
//	a canary without an answer                     is asked again after the next probe. It is hung when not a
//	                                                 byte has come for stall_timeout: see judge
//	a listener no more, bad probes                 is judged as ever
//
// What was sent before the question proves nothing: the question has a number, and
// what goes out answers those up to the one that it has seen.

// doubts are a vigil's about questions.
type doubts struct {
	// probed and called are the questions that the probe and the canary that are out answer.
	probed, called uint64
	out            bool // the canary is
	tried          bool // one was sent since the last probe
}

// isQuestioned says whether nobody has vouched for the member since it was questioned.
// One that was found not to listen is not.
func (v *vigil) isQuestioned() bool {
	_, open := v.member.Questions()
	return open
}

// question takes in what a probe that goes out now is to answer.
func (v *vigil) question() (open bool) {
	v.doubts.probed, open = v.member.Questions()
	v.doubts.tried = v.doubts.tried && v.doubts.out
	if open {
		v.judge.silences()
		v.say()
	}
	return open
}

// answers takes what a probe has shown; meanwhile: something came while it was out.
func (v *vigil) answers(err error, kind string, meanwhile bool) {
	if meanwhile || err == nil && (v.checks.canary == nil || kind == kindCanary) {
		v.member.Vouch(v.doubts.probed)
	}
}

// mayCall says that a canary is to be sent for a question.
func (v *vigil) mayCall() bool {
	return v.checks.canary != nil && v.checks.kind != kindCanary && !v.doubts.tried && v.isQuestioned()
}

// calls notes that a canary goes out.
func (v *vigil) calls() {
	d := &v.doubts
	d.tried, d.out = true, true
	d.called, _ = v.member.Questions()
	v.judge.calls(v.judge.stalled())
}

// answersCanary takes what its canary has shown.
func (v *vigil) answersCanary(err error) {
	v.doubts.out = false
	if err == nil || errors.Is(err, errNoProof) && v.judge.bad == 0 {
		v.member.Vouch(v.doubts.called)
	}
}

// silences begins the time of silence, if it is not under way: of an engine that
// nobody is sent to nothing comes, and it must not be kept like that for ever.
func (j *judge) silences() {
	if j.silentSince.IsZero() && !j.blind() {
		j.silentSince = time.Now()
	}
}
