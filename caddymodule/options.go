// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// options reads the options of one block, each on a line of its own, and makes
// sure that nothing in it is unknown, missing, extra or repeated. Errors name
// file, line and word.
type options struct {
	d    *caddyfile.Dispenser
	name string
	path string // the option's name with those of the blocks around it
	seen map[string]bool
}

// unmarshalOptions consumes the name that d is about to give, refuses
// arguments, and calls each for every option of the block.
func unmarshalOptions(d *caddyfile.Dispenser, each func(*options) error) error {
	d.Next()
	if d.NextArg() {
		return d.Errf("unexpected argument '%s'", d.Val())
	}
	return newOptions(d).block(d.Nesting(), each)
}

func newOptions(d *caddyfile.Dispenser) *options {
	return &options{d: d, seen: make(map[string]bool)}
}

func (o *options) block(nesting int, each func(*options) error) error {
	around := o.path
	for o.d.NextBlock(nesting) {
		o.name = o.d.Val()
		o.path = strings.TrimSpace(around + " " + o.name)
		if err := each(o); err != nil {
			return err
		}
	}
	o.path = around
	return nil
}

// nested reads the block of an option that has nothing else.
func (o *options) nested(each func(*options) error) error {
	if err := o.once(); err != nil {
		return err
	}
	if o.d.NextArg() {
		return o.d.Errf("unexpected argument '%s' of %s", o.d.Val(), o.path)
	}
	name, path := o.name, o.path
	empty := true
	err := o.block(o.d.Nesting(), func(o *options) error {
		empty = false
		return each(o)
	})
	o.name, o.path = name, path
	if err == nil && empty {
		return o.d.Errf("%s needs a block with at least one option", path)
	}
	return err
}

func (o *options) unrecognized() error {
	if block, _, nested := cutLast(o.path); nested {
		return o.d.Errf("unrecognized option '%s' of %s", o.name, block)
	}
	return o.d.Errf("unrecognized option '%s'", o.name)
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

// once refuses an option that was given before.
func (o *options) once() error {
	if o.seen[o.path] {
		return o.d.Errf("%s already specified", o.path)
	}
	o.seen[o.path] = true
	return nil
}

// one reads the one argument of an option that is given once.
func (o *options) one() (string, error) {
	if err := o.once(); err != nil {
		return "", err
	}
	args := o.d.RemainingArgs()
	switch {
	case len(args) == 0:
		return "", o.d.Errf("%s needs a value", o.path)
	case len(args) > 1:
		return "", o.d.Errf("unexpected argument '%s' of %s", args[1], o.path)
	case args[0] == "":
		return "", o.d.Errf("%s is empty", o.path)
	}
	return args[0], nil
}

func (o *options) text(v *string) (err error) {
	*v, err = o.one()
	return err
}

// choice reads one of the words.
func (o *options) choice(v *string, words ...string) error {
	if err := o.text(v); err != nil {
		return err
	}
	if !slices.Contains(words, *v) {
		return o.d.Errf("%s is '%s', should be one of: %s", o.path, *v, strings.Join(words, ", "))
	}
	return nil
}

// list reads one or more arguments, none of them twice.
func (o *options) list(v *[]string) error {
	if err := o.once(); err != nil {
		return err
	}
	*v = o.d.RemainingArgs()
	if len(*v) == 0 {
		return o.d.Errf("%s needs at least one value", o.path)
	}
	for i, s := range *v {
		if s == "" {
			return o.d.Errf("%s has an empty value", o.path)
		}
		if slices.Contains((*v)[:i], s) {
			return o.d.Errf("'%s' appears twice in %s", s, o.path)
		}
	}
	return nil
}

func (o *options) duration(v *caddy.Duration) error {
	word, err := o.one()
	if err != nil {
		return err
	}
	return o.parseDuration(v, word)
}

func (o *options) parseDuration(v *caddy.Duration, word string) error {
	d, err := caddy.ParseDuration(word)
	if err != nil || d <= 0 {
		return o.d.Errf("%s is '%s', should be a duration such as %s", o.path, word, 90*time.Second)
	}
	*v = caddy.Duration(d)
	return nil
}

func (o *options) count(v *int64) error {
	word, err := o.one()
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n <= 0 {
		return o.d.Errf("%s is '%s', should be a positive number", o.path, word)
	}
	*v = n
	return nil
}
