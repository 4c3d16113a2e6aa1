// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// optionBlock is a directive with its block cut into subdirectives, so that some
// of them can be taken by one unmarshaler and the rest handed to another.
type optionBlock struct {
	head    []caddyfile.Token // the directive and its arguments
	open    []caddyfile.Token // the opening brace, if there is a block
	options []blockOption
	closing []caddyfile.Token // the closing brace
}

// blockOption is a subdirective with its arguments and block. An empty block is
// not among the tokens: the dispenser skips it.
type blockOption struct {
	tokens     caddyfile.Segment
	emptyBlock bool
}

// splitBlock cuts up the directive whose name d is at, and consumes it.
func splitBlock(d *caddyfile.Dispenser) (*optionBlock, error) {
	name := d.Val()
	tokens := d.NextSegment()
	b := new(optionBlock)
	whole := caddyfile.NewDispenser(tokens)
	whole.Next()
	b.head = append(b.head, whole.Token())
	for whole.NextArg() {
		b.head = append(b.head, whole.Token())
	}
	rest := tokens[len(b.head):]
	if len(rest) == 0 {
		return b, nil
	}
	if len(rest) < 2 || rest[0].Text != "{" || rest[len(rest)-1].Text != "}" {
		return nil, d.Errf("block of %s is not closed", name)
	}
	b.open, b.closing = rest[:1], rest[len(rest)-1:]
	for whole.NextBlock(0) {
		option := blockOption{tokens: whole.NextSegment()}
		option.emptyBlock = whole.Val() == "}" && option.tokens[len(option.tokens)-1].Text != "}"
		b.options = append(b.options, option)
	}
	return b, nil
}

// take offers each subdirective to unmarshal, in a dispenser of its own that is
// positioned on the name. It returns a dispenser, not yet positioned, over the
// directive with the subdirectives that unmarshal did not know. A token that is
// left over of one that it did know is an error.
func (b *optionBlock) take(unmarshal func(*caddyfile.Dispenser) (known bool, err error)) (*caddyfile.Dispenser, error) {
	tokens := append(caddyfile.Segment(nil), b.head...)
	tokens = append(tokens, b.open...)
	for _, option := range b.options {
		d := caddyfile.NewDispenser(option.tokens)
		d.Next()
		name := d.Val()
		known, err := unmarshal(d)
		if err != nil {
			return nil, err
		}
		if !known {
			tokens = append(tokens, option.tokens...)
			continue
		}
		if d.Next() {
			return nil, d.Errf("unexpected '%s' after %s", d.Val(), name)
		}
		if option.emptyBlock {
			return nil, d.Errf("unexpected '{' after %s", name)
		}
	}
	tokens = append(tokens, b.closing...)
	return caddyfile.NewDispenser(tokens), nil
}
