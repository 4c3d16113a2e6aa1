// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParseObject(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]error{
		`{}`:                     nil,
		` {"a":[1,{"b":null}]} `: nil,
		`{"a":1,"a":2}`:          errDuplicate,
		`{"a":{"b":1,"b":2}}`:    errDuplicate,
		`{"a":[{"b":1,"b":2}]}`:  errDuplicate,
		`{"a":1,"\u0061":2}`:     errDuplicate,
		`{"a":1,"A":2}`:          nil,
		``:                       errNotObject,
		`null`:                   errNotObject,
		`[]`:                     errNotObject,
		`"x"`:                    errNotObject,
		`{`:                      errNotObject,
		`{"a"}`:                  errNotObject,
		`{"a":1,}`:               errNotObject,
		`{"a":[1}`:               errNotObject,
		`{"a":1}}`:               errNotObject,
		`{"a":1}{}`:              errNotObject,
		"{\"a\":\"\xff\"}":       errNotObject,
		"\ufeff{}":               errNotObject,
		`{"a":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`: nil,
		`{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`: errTooDeep,
		strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33):       errTooDeep,
	} {
		if _, err := parseObject([]byte(data), true); !errors.Is(err, want) || (want == nil && err != nil) {
			t.Errorf("%.40s: %v, not %v", data, err, want)
		}
	}
	o, err := parseObject([]byte(`{"a":1,"a":"x","b":null}`), false)
	if err != nil || o.members["a"] != "x" || o.has("b") || o.unique("b") != nil || !errors.Is(o.unique("b", "a"), errDuplicate) {
		t.Errorf("%+v %v", o, err)
	}
	o, err = parseObject([]byte(`{"a":{"b":1,"b":2},"b":3}`), false)
	if err != nil || o.unique("a", "b") != nil {
		t.Errorf("a repeated member deep inside counts at the top: %+v %v", o, err)
	}
}

func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a":[1,"x",{"b":null}],"exp":1e3}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		loose, looseErr := parseObject(data, false)
		strict, strictErr := parseObject(data, true)
		if looseErr == nil && !json.Valid(data) {
			t.Fatalf("not JSON: %q", data)
		}
		if strictErr == nil && (looseErr != nil || len(strict.repeated) != 0 || len(strict.members) != len(loose.members)) {
			t.Fatalf("strict and loose differ on %q", data)
		}
		if looseErr == nil {
			if _, err := json.Marshal(loose.members); err != nil {
				t.Fatalf("cannot be written again: %v", err)
			}
			for name := range loose.members {
				if d, err := loose.date(name); err == nil && (d.Unix() < 0 && !d.IsZero() || d.Unix() > maxDate) {
					t.Fatalf("date %v", d)
				}
			}
		}
	})
}
