//go:build tools

// Package tools names what is built, for the go command to keep in go.mod.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
