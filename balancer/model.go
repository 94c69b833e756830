package balancer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"stoker/internal/http1"
	"stoker/internal/jsonfield"
)

// modelError is why a request names no model: it goes on to the next route,
// and, where none takes it, its client is told.
type modelError string

func (e modelError) Error() string { return string(e) }

// The requests without a model.
const (
	errNoBody     modelError = "there is no body"
	errNotJSON    modelError = "it is no JSON object"
	errNoModel    modelError = "it has no \"model\""
	errModelKind  modelError = "its \"model\" is no string"
	errCompressed modelError = "it is compressed, and is not looked into"
	// errOtherModel: there is one, and it is another.
	errOtherModel modelError = "its model is another"
)

// errTwoModels is refused rather than passed on: we would go by one of them,
// and the engine perhaps by the other.
var errTwoModels = &requestError{http.StatusBadRequest, "model_twice", "the request's body names its model twice"}

// errAheadTooLarge is refused too: to go by no model would bring the request to
// some engine that it may not mean, and to hold any body there is would let
// clients fill the memory.
var errAheadTooLarge = &requestError{http.StatusRequestEntityTooLarge, "body_too_large", "the request's body is larger than this server reads to find the model that it names"}

// errAheadFull is refused for the same reason: clients that send slowly would
// else fill the memory together.
var errAheadFull = &requestError{http.StatusServiceUnavailable, "read_ahead_full", "too many large requests are being read; try again later"}

// codeUnknownModel is what OpenAI's API says of a model that it does not have.
const codeUnknownModel = "model_not_found"

// maxModelShown is how much of a name a client is shown again, in bytes.
const maxModelShown = 200

// unknownModelError is that of a client who names one that no route is for. The
// client is told its own word for it, and not which there are; the log, which holds
// no content of requests, is not.
type unknownModelError struct{ told *requestError }

func unknownModel(name string) *unknownModelError {
	if len(name) > maxModelShown {
		name = strings.ToValidUTF8(name[:maxModelShown], "") + "…"
	}
	return &unknownModelError{&requestError{http.StatusNotFound, codeUnknownModel, fmt.Sprintf("The model `%s` does not exist", name)}}
}

func (*unknownModelError) Error() string { return "no route is for the model that the body names" }

// Unwrap is what the client is told.
func (e *unknownModelError) Unwrap() error { return e.told }

// model implements modelSource: it reads the body, once, and holds it.
func (a *attempt) model() (string, error) {
	if !a.ahead.asked {
		a.ahead.asked = true
		a.ahead.value, a.ahead.err = a.findModel()
	}
	return a.ahead.value.Text, a.ahead.err
}

func (a *attempt) findModel() (jsonfield.Value, error) {
	fields := a.x.Request.Fields
	switch coding := fields.Get("Content-Encoding"); {
	case a.x.Body == nil:
		return jsonfield.Value{}, errNoBody
	case isGRPC(&a.x.Request):
		return jsonfield.Value{}, errNotJSON
	case coding != "" && !strings.EqualFold(coding, "identity"):
		return jsonfield.Value{}, errCompressed
	}
	if err := a.readAhead(); err != nil {
		return jsonfield.Value{}, err
	}
	value, err := jsonfield.Find(a.ahead.data(), "model")
	switch {
	case err == nil && !utf8.ValidString(value.Text):
		return value, errModelKind
	case errors.Is(err, jsonfield.ErrTwice):
		return value, errTwoModels
	case errors.Is(err, jsonfield.ErrMissing):
		return value, errNoModel
	case errors.Is(err, jsonfield.ErrNotString):
		return value, errModelKind
	case err != nil:
		return value, errNotJSON
	}
	return value, nil
}

// rename tells the engine its own name for the model, where the route has one.
// All else of the body stays as it is, byte for byte.
func (a *attempt) rename(r *route) {
	if len(r.aliases) == 0 {
		return
	}
	value := a.ahead.value
	name, ok := r.aliases[value.Text]
	if !ok {
		return
	}
	written := appendJSON(nil, name)
	a.ahead.replace(value.Start, value.End, written)
	if a.x.Length >= 0 {
		a.x.Length = a.ahead.size()
	}
	a.x.Request.Fields = withoutDigests(a.x.Request.Fields)
}

// withoutDigests removes what says of a body that it has not been changed.
func withoutDigests(fields http1.Fields) http1.Fields {
	for _, name := range []string{"Content-Digest", "Repr-Digest", "Digest", "Content-MD5"} {
		fields = fields.Without(name)
	}
	return fields
}
