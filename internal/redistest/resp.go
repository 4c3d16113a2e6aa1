// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redistest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// frame is one value of the protocol (RESP2 or RESP3) with its bytes.
type frame struct {
	kind     byte
	value    string // of a simple or bulk value
	null     bool
	elements []frame
	raw      []byte
}

// maxFrame bounds what a test is ready to hold.
const maxFrame = 64 << 20

func readFrame(r *bufio.Reader) (frame, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return frame{}, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return frame{}, fmt.Errorf("malformed line %q", line)
	}
	f := frame{kind: line[0], raw: line}
	head := string(line[1 : len(line)-2])
	switch f.kind {
	case '+', '-', ':', ',', '#', '(':
		f.value = head
		return f, nil
	case '_':
		f.null = true
		return f, nil
	}
	n, err := strconv.Atoi(head)
	if err != nil || n > maxFrame {
		return frame{}, fmt.Errorf("malformed length %q", head)
	}
	switch f.kind {
	case '$', '=', '!':
		if n < 0 {
			f.null = true
			return f, nil
		}
		body := make([]byte, n+2)
		if _, err := io.ReadFull(r, body); err != nil {
			return frame{}, err
		}
		f.value = string(body[:n])
		f.raw = append(f.raw, body...)
		return f, nil
	case '*', '~', '>':
	case '%', '|':
		n *= 2
	default:
		return frame{}, fmt.Errorf("unknown kind %q", f.kind)
	}
	if n < 0 {
		f.null = true
	}
	for range n {
		e, err := readFrame(r)
		if err != nil {
			return frame{}, err
		}
		f.elements = append(f.elements, e)
		f.raw = append(f.raw, e.raw...)
	}
	if f.kind == '|' { // attributes come before what they are about
		e, err := readFrame(r)
		if err != nil {
			return frame{}, err
		}
		e.raw = append(f.raw, e.raw...)
		return e, nil
	}
	return f, nil
}

func (f frame) text() string {
	switch {
	case f.null:
		return "(nil)"
	case f.kind == '-' || f.kind == '!':
		return "-" + f.value
	case f.elements != nil:
		lines := make([]string, len(f.elements))
		for i, e := range f.elements {
			lines[i] = e.text()
		}
		return strings.Join(lines, "\n")
	}
	return f.value
}

// command gives the words of a request.
func (f frame) command() ([]string, error) {
	if f.kind != '*' || len(f.elements) == 0 {
		return nil, errors.New("a request that is no array")
	}
	words := make([]string, len(f.elements))
	for i, e := range f.elements {
		words[i] = e.value
	}
	words[0] = strings.ToUpper(words[0])
	return words, nil
}

func encodeCommand(args []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.Bytes()
}
