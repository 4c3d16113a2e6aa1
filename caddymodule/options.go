// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"fmt"
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
	at   map[string]caddyfile.Token // where, by path; the directive at ""
}

// unmarshalOptions consumes the name that d is about to give, refuses
// arguments, and calls each for every option of the block.
func unmarshalOptions(d *caddyfile.Dispenser, each func(*options) error) error {
	return newOptions(d).directive(each)
}

func newOptions(d *caddyfile.Dispenser) *options {
	return &options{d: d, seen: make(map[string]bool), at: make(map[string]caddyfile.Token)}
}

func (o *options) directive(each func(*options) error) error {
	o.d.Next()
	o.at[""] = o.d.Token()
	if o.d.NextArg() {
		return o.d.Errf("unexpected argument '%s'", o.d.Val())
	}
	return o.block(o.d.Nesting(), each)
}

// locate adds file and line to an error that was found after the whole block was
// read: those of the option that it is about, else of the directive.
func (o *options) locate(err error) error {
	if err == nil {
		return nil
	}
	token := o.at[""]
	var wrong *optionError
	if errors.As(err, &wrong) {
		if t, ok := o.at[wrong.option]; ok {
			token = t
		}
	}
	d := caddyfile.NewDispenser([]caddyfile.Token{token})
	d.Next()
	return d.WrapErr(err)
}

// optionError is what is wrong with an option. Its text names the option, and
// the value unless that is a secret.
type optionError struct {
	option string // with those of the blocks around it; empty: one is missing
	err    error
}

func (e *optionError) Error() string { return e.err.Error() }
func (e *optionError) Unwrap() error { return e.err }

// wrong makes an optionError. The text has to name the option.
func wrong(option, format string, args ...any) error {
	return &optionError{option: option, err: fmt.Errorf(format, args...)}
}

// oneOf checks an option that has to be one of a few words.
func oneOf(option, value string, words ...string) error {
	if slices.Contains(words, value) {
		return nil
	}
	return wrong(option, "%s is %q, should be one of: %s", option, value, strings.Join(words, ", "))
}

func (o *options) block(nesting int, each func(*options) error) error {
	around := o.path
	for o.d.NextBlock(nesting) {
		o.name = o.d.Val()
		o.path = strings.TrimSpace(around + " " + o.name)
		o.at[o.path] = o.d.Token()
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

// optionalBlock reads the block of an option that means something without one.
func (o *options) optionalBlock(each func(*options) error) error {
	if err := o.flag(); err != nil {
		return err
	}
	name, path := o.name, o.path
	err := o.block(o.d.Nesting(), each)
	o.name, o.path = name, path
	return err
}

// textAndBlock reads the one argument of an option, and the block behind it, which
// may be left out.
func (o *options) textAndBlock(v *string, each func(*options) error) error {
	if err := o.text(v); err != nil {
		return err
	}
	name, path := o.name, o.path
	err := o.block(o.d.Nesting(), each)
	o.name, o.path = name, path
	return err
}

// flag reads an option that has no value.
func (o *options) flag() error {
	if err := o.once(); err != nil {
		return err
	}
	if o.d.NextArg() {
		return o.d.Errf("unexpected argument '%s' of %s", o.d.Val(), o.path)
	}
	return nil
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

// secret reads one argument, which no message repeats: not the rest of a secret
// with a space in it either.
func (o *options) secret(v *string) error {
	var all []string
	if err := o.secrets(&all); err != nil {
		return err
	}
	if len(all) > 1 {
		return o.d.Errf("%s takes one value, has %d; put one with spaces into quotes", o.path, len(all))
	}
	*v = all[0]
	return nil
}

// secrets reads one or more arguments, none of them twice, which no message
// repeats.
func (o *options) secrets(v *[]string) error {
	if err := o.once(); err != nil {
		return err
	}
	*v = o.d.RemainingArgs()
	if len(*v) == 0 {
		return o.d.Errf("%s needs a value", o.path)
	}
	for i, s := range *v {
		if s == "" {
			return o.d.Errf("%s is empty", o.path)
		}
		if slices.Contains((*v)[:i], s) {
			return o.d.Errf("%s has the same value twice, as number %d", o.path, i+1)
		}
	}
	return nil
}

// choice reads one of the words.
func (o *options) choice(v *string, words ...string) error {
	if err := o.text(v); err != nil {
		return err
	}
	if err := oneOf(o.path, *v, words...); err != nil {
		return o.d.WrapErr(err)
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
		return o.d.Errf("%s is %q, should be a duration above zero, such as %s", o.path, word, 90*time.Second)
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
		return o.d.Errf("%s is %q, should be a number above zero", o.path, word)
	}
	*v = n
	return nil
}
