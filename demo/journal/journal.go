// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package journal records what happens at the servers of the demo, for its page to draw.
package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"
)

// Kind says what happened.
type Kind string

// The things that happen.
const (
	SignedIn         Kind = "signed_in"         // a code was exchanged: the first tokens of a session
	Refreshed        Kind = "refreshed"         // a refresh token was presented and rotated
	Reused           Kind = "reused"            // a spent refresh token was presented: its family is dead
	Revoked          Kind = "revoked"           // the access tokens of a session were revoked by the button
	SignedOut        Kind = "signed_out"        // the refresh token was revoked, or the session ended, at sign-out
	Refused          Kind = "refused"           // the resource server answered 401 invalid_token
	OutageStarted    Kind = "outage_started"    // the authorization server went down
	OutageEnded      Kind = "outage_ended"      // the authorization server is back
	GatewayStopped   Kind = "gateway_stopped"   // the gateway was stopped by the button
	GatewayRestarted Kind = "gateway_restarted" // the gateway is back
)

// limit is the number of events that are kept; a page that has been away for longer misses the oldest.
const limit = 2000

// Event is one thing that happened. It holds labels only: neither tokens nor identifiers that could be used as one.
type Event struct {
	ID         int64     `json:"id"`                   // 1, 2, 3, ...
	Time       time.Time `json:"time"`                 //
	Kind       Kind      `json:"kind"`                 //
	Session    string    `json:"session,omitempty"`    // label of the session; empty where all are concerned
	Generation string    `json:"generation,omitempty"` // label of the access token that was issued or refused
}

// Journal keeps the latest events and counts them all. Its methods are safe for concurrent use.
type Journal struct {
	mu     sync.Mutex
	last   int64
	events []Event
}

// Append records e, whose ID and Time are set here.
func (j *Journal) Append(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.ID, e.Time = j.last, time.Now()
	if len(j.events) == limit {
		j.events = j.events[:copy(j.events, j.events[1:])]
	}
	j.events = append(j.events, e)
}

// Since returns the events after the one with the given ID that concern the session with the given label, oldest
// first, and the ID of the latest event of all.
func (j *Journal) Since(id int64, session string) ([]Event, int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	found := []Event{}
	for _, e := range j.events {
		if e.ID > id && (e.Session == "" || e.Session == session) {
			found = append(found, e)
		}
	}
	return found, j.last
}

// Label makes a short name for a secret or an identifier. It can be shown: nobody gets from it to what it stands for.
func Label(secret string) string {
	if secret == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:3])
}
