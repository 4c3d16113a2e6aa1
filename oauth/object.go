// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON from outside.
const maxDepth = 32

var (
	errNotObject = errors.New("not a JSON object")
	errDuplicate = errors.New("duplicate member")
	errTooDeep   = errors.New("nested too deep")
	errTooMany   = errors.New("too many values")
)

// object is a JSON object from outside. Member names are compared exactly, unlike
// encoding/json does for structs; members with the value null are absent; numbers
// are json.Number.
type object struct {
	members map[string]any
	// repeated holds the names of top-level members that came more than once
	// (the last one counts). Whoever uses such a member must refuse it.
	repeated []string
}

// parseObject reads a JSON object. strict: a member that comes twice, at any
// depth, is an error.
func parseObject(data []byte, strict bool) (*object, error) {
	return parseSmallObject(data, strict, math.MaxInt)
}

// parseSmallObject is parseObject for what anybody may have sent: at more values than
// most it gives up, before they cost anything.
func parseSmallObject(data []byte, strict bool, most int) (*object, error) {
	if !utf8.Valid(data) {
		return nil, errNotObject
	}
	p := objectParser{dec: json.NewDecoder(bytes.NewReader(data)), strict: strict, left: most}
	p.dec.UseNumber()
	token, err := p.dec.Token()
	if err != nil || token != json.Delim('{') {
		return nil, errNotObject
	}
	members, err := p.object(1)
	if err != nil {
		return nil, err
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: trailing data", errNotObject)
	}
	for name, v := range members {
		if v == nil {
			delete(members, name)
		}
	}
	return &object{members: members, repeated: p.repeated}, nil
}

type objectParser struct {
	dec      *json.Decoder
	strict   bool
	left     int // values that may still come
	repeated []string
}

// object reads the rest of an object whose brace has been read.
func (p *objectParser) object(depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	m := map[string]any{}
	for p.dec.More() {
		token, err := p.dec.Token()
		if err != nil {
			return nil, errNotObject
		}
		name, ok := token.(string)
		if !ok {
			return nil, errNotObject
		}
		if _, seen := m[name]; seen {
			if p.strict {
				return nil, errDuplicate
			}
			if depth == 1 {
				p.repeated = append(p.repeated, name)
			}
		}
		if m[name], err = p.value(depth); err != nil {
			return nil, err
		}
	}
	if _, err := p.dec.Token(); err != nil {
		return nil, errNotObject
	}
	return m, nil
}

func (p *objectParser) value(depth int) (any, error) {
	if p.left--; p.left < 0 {
		return nil, errTooMany
	}
	token, err := p.dec.Token()
	if err != nil {
		return nil, errNotObject
	}
	switch token {
	case json.Delim('{'):
		return p.object(depth + 1)
	case json.Delim('['):
		if depth+1 > maxDepth {
			return nil, errTooDeep
		}
		list := []any{}
		for p.dec.More() {
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		if _, err := p.dec.Token(); err != nil {
			return nil, errNotObject
		}
		return list, nil
	}
	return token, nil
}

// has says whether a member is there and not null.
func (o *object) has(name string) bool { _, ok := o.members[name]; return ok }

// unique refuses repeated members among names.
func (o *object) unique(names ...string) error {
	for _, name := range names {
		if slices.Contains(o.repeated, name) {
			return fmt.Errorf("%w %s", errDuplicate, name)
		}
	}
	return nil
}

// text returns a string member; "" when it is absent, an error for another type.
func (o *object) text(name string) (string, error) {
	v, ok := o.members[name]
	if !ok {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return s, nil
}

// texts returns the strings of an array member and skips what is none.
func (o *object) texts(name string) []string {
	list, _ := o.members[name].([]any)
	var out []string
	for _, v := range list {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// date returns a NumericDate member (RFC 7519 section 2), which may have a
// fraction; the zero time when it is absent.
func (o *object) date(name string) (time.Time, error) {
	v, ok := o.members[name]
	if !ok {
		return time.Time{}, nil
	}
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, fmt.Errorf("%s is not a number", name)
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || f < 0 || f > maxDate {
		return time.Time{}, fmt.Errorf("%s is out of range", name)
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)), nil
}

// maxDate is the end of the year 9999.
const maxDate = 253402300799
