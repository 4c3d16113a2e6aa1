// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"sync"
	"testing"
)

func TestSinceGivesWhatConcernsTheSession(t *testing.T) {
	t.Parallel()
	var j Journal
	j.Append(Event{Kind: Refreshed, Session: "a"})
	j.Append(Event{Kind: Refreshed, Session: "b"})
	j.Append(Event{Kind: OutageStarted})
	j.Append(Event{Kind: Refreshed, Session: "a"})

	events, last := j.Since(1, "a")
	if last != 4 {
		t.Fatalf("last is %d, want 4", last)
	}
	if len(events) != 2 || events[0].ID != 3 || events[1].ID != 4 {
		t.Fatalf("events after 1 for a: %+v, want those with ID 3 and 4", events)
	}
	if events, _ := j.Since(4, "a"); events == nil || len(events) != 0 {
		t.Fatalf("no news must be an empty list (JSON []), got %#v", events)
	}
}

func TestJournalIsBounded(t *testing.T) {
	t.Parallel()
	var j Journal
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range limit {
				j.Append(Event{Kind: Refreshed})
			}
		})
	}
	wg.Wait()
	events, last := j.Since(0, "")
	if len(events) != limit || last != 4*limit || events[limit-1].ID != last || events[0].ID != 3*limit+1 {
		t.Fatalf("%d events, last %d, first ID %d", len(events), last, events[0].ID)
	}
}

func TestLabelDoesNotShowTheSecret(t *testing.T) {
	t.Parallel()
	if got := Label("a secret"); len(got) != 6 || got == Label("another") {
		t.Fatalf("label %q", got)
	}
	if Label("") != "" {
		t.Fatal("nothing has no label")
	}
}
