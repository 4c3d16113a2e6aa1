// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// secretToken must never be seen outside an Authorization field.
const secretToken = "canary-token"

// staticSource is a TokenSource whose fields would show its token to any %v.
type staticSource struct{ Access string }

func (s *staticSource) Token(context.Context) (string, error)           { return s.Access, nil }
func (s *staticSource) Refresh(context.Context, string) (string, error) { return s.Access, nil }

// TestGrantDoesNotPrint: nothing that formats, marshals or logs a grant shows
// what is in it.
func TestGrantDoesNotPrint(t *testing.T) {
	t.Parallel()
	g := &Grant{Source: &staticSource{secretToken}}
	ctx := WithGrant(t.Context(), g)
	var printed []string
	for _, v := range []any{g, *g, ctx, []any{g}, map[string]any{"a": *g}, struct{ G *Grant }{g}, struct{ G Grant }{*g}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T %v"} {
			printed = append(printed, strings.ReplaceAll(fmt.Sprintf(verb, v, v), " ", ""))
		}
		if _, isContext := v.(context.Context); !isContext {
			b, err := json.Marshal(v)
			if err != nil {
				t.Errorf("marshalling %T: %v", v, err)
			}
			printed = append(printed, string(b))
		}
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "grant", g, "value", *g)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "grant", g, "value", *g)
	printed = append(printed, log.String(), g.String(), g.GoString())
	for _, p := range printed {
		if strings.Contains(p, secretToken) || strings.Contains(p, fmt.Sprintf("%x", secretToken)) {
			t.Errorf("printed as %s", p)
		}
	}
}

func TestGrantFrom(t *testing.T) {
	t.Parallel()
	if g, ok := GrantFrom(t.Context()); g != nil || ok {
		t.Error("a grant out of nothing")
	}
	if _, ok := GrantFrom(WithGrant(t.Context(), nil)); ok {
		t.Error("nil is a grant")
	}
	g := new(Grant)
	if got, ok := GrantFrom(WithGrant(t.Context(), g)); got != g || !ok {
		t.Error("the grant is not found")
	}
}
