package config

import "strings"

// ErrorPages says what form our own answers to failed requests have.
type ErrorPages struct {
	// HTML: who prefers that to JSON, as browsers do, gets a page.
	HTML bool `toml:"html"`
	// JSONPaths are below which everybody gets JSON: programs ask there.
	JSONPaths []string `toml:"json_paths"`
}

// AccessLogForm is the access log's format.
func (c *Config) AccessLogForm() string {
	if c.AccessLogFormat != "" {
		return c.AccessLogFormat
	}
	return c.LogFormat
}

func (v *validator) validateErrorPages() {
	for i, path := range v.config.ErrorPages.JSONPaths {
		if key := indexPath("error_pages.json_paths", i); strings.Contains(path, "?") {
			v.report(key, "is a path without a query: leave out what follows the question mark")
		} else {
			v.requestPath(key, path)
		}
	}
}
