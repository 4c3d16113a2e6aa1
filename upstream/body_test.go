// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// clientBody is the body of a client's request, with what a server's has: it
// fills the trailer section at its end, counts, and may not be read after Close.
type clientBody struct {
	io.Reader
	onEOF func()

	mu      sync.Mutex
	reading bool
	read    int
	closed  int
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed > 0 {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	if b.reading {
		b.mu.Unlock()
		panic("two readers at once")
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.Reader.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.read += n
	if err == io.EOF && b.onEOF != nil {
		b.onEOF()
	}
	return n, err
}

func (b *clientBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func (b *clientBody) state() (read, closed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read, b.closed
}

// upload makes a request with a body. length is the declared one, -1 unknown.
func upload(ctx context.Context, g *Grant, body io.ReadCloser, length int64) *http.Request {
	req := request(ctx, g, "POST", nil)
	req.Body, req.ContentLength = body, length
	return req
}

func blob(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// TestReplayBody: a body is sent again byte for byte, or not at all, whatever
// the resource server read of it before it refused. PX-08, B215.
func TestReplayBody(t *testing.T) {
	t.Parallel()
	const limit = 1000
	for _, size := range []int{0, 1, 500, limit - 1, limit, limit + 1, 10 * limit} {
		for _, declared := range []bool{true, false} {
			for _, taken := range []int{0, 1, 700, limit, limit + 1, 1 << 20} {
				for _, closes := range []bool{true, false} {
					if declared && size == 0 {
						continue // that is no body
					}
					name := fmt.Sprintf("%d bytes, declared %t, first attempt takes %d, closes %t", size, declared, taken, closes)
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						sent := blob(size)
						body := &clientBody{Reader: iotest.OneByteReader(bytes.NewReader(sent))}
						length := int64(-1)
						if declared {
							length = int64(size)
						}
						attempts := 0
						tr := &Transport{ReplayBuffer: limit, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
							attempts++
							if r.ContentLength != length {
								t.Errorf("attempt %d declares %d, want %d", attempts, r.ContentLength, length)
							}
							if attempts == 1 {
								got, err := io.ReadAll(io.LimitReader(r.Body, int64(taken)))
								if err != nil || !bytes.Equal(got, sent[:min(taken, size)]) {
									t.Errorf("first attempt read %d bytes, %v", len(got), err)
								}
								if closes {
									_ = r.Body.Close()
								}
								return refusal(), nil
							}
							got, err := io.ReadAll(r.Body)
							if err != nil || !bytes.Equal(got, sent) {
								t.Errorf("second attempt read %d bytes, %v", len(got), err)
							}
							_ = r.Body.Close()
							return answer(200, "fine"), nil
						})}
						closing := make(http.Header)
						source := &generations{}
						resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: source, ResponseHeader: closing}, body, length))
						if err != nil {
							t.Fatal(err)
						}
						want, wantAttempts := 200, 2
						if size > limit {
							want, wantAttempts = 401, 1
						}
						if resp.StatusCode != want || attempts != wantAttempts {
							t.Errorf("answered %d after %d attempts, want %d after %d", resp.StatusCode, attempts, want, wantAttempts)
						}
						if source.calls != 1 {
							t.Errorf("%d refreshes, want 1", source.calls)
						}
						read, closed := body.state()
						if closed > 1 || closed == 0 && (want == 200 || closes) {
							t.Errorf("closed %d times", closed)
						}
						// Close may be said without need where the end itself was not yet seen.
						if wantClose := read < size; wantClose && closing.Get("Connection") != "close" {
							t.Errorf("%d bytes of %d read, and the connection stays open", read, size)
						}
						if want == 200 && closing["Connection"] != nil {
							t.Error("a connection whose body was read is closed")
						}
					})
				}
			}
		}
	}
}

// TestReplayTakesOver: the first attempt still reads when its answer arrives. It
// gets no byte more, and the replay gets all.
func TestReplayTakesOver(t *testing.T) {
	t.Parallel()
	for _, declared := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			const size = 500
			sent := blob(size)
			// A client that sends a byte a millisecond.
			slow := &clientBody{Reader: iotest.OneByteReader(readerFunc(bytes.NewReader(sent), time.Millisecond))}
			length := int64(-1)
			if declared {
				length = size
			}
			var first error
			done := make(chan struct{})
			attempts := 0
			tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				attempts++
				if attempts == 1 {
					go func() {
						defer close(done)
						_, first = io.Copy(io.Discard, r.Body)
						_ = r.Body.Close()
					}()
					time.Sleep(100*time.Millisecond + 500*time.Microsecond) // in the middle of a read
					return refusal(), nil
				}
				got, err := io.ReadAll(r.Body)
				_ = r.Body.Close()
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("declared %t: replay read %d bytes, %v", declared, len(got), err)
				}
				return answer(200, "fine"), nil
			})}
			resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: &generations{}}, slow, length))
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("declared %t: %v, %v", declared, resp, err)
			}
			<-done
			if !errors.Is(first, errDetached) {
				t.Errorf("declared %t: the first attempt ended with %v", declared, first)
			}
			if _, closed := slow.state(); closed != 1 {
				t.Errorf("declared %t: closed %d times", declared, closed)
			}
		})
	}
}

// readerFunc waits before each read.
func readerFunc(r io.Reader, wait time.Duration) io.Reader {
	return readerOf(func(p []byte) (int, error) {
		time.Sleep(wait)
		return r.Read(p)
	})
}

type readerOf func([]byte) (int, error)

func (f readerOf) Read(p []byte) (int, error) { return f(p) }

// TestReplayGivesUpOnSlowClient: reading on from a client that does not send
// ends with the time for healing.
func TestReplayGivesUpOnSlowClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stalled, unstall := io.Pipe()
		body := &clientBody{Reader: io.MultiReader(strings.NewReader("begun"), stalled)}
		attempts := 0
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			attempts++
			_, _ = io.ReadFull(r.Body, make([]byte, 5))
			return refusal(), nil
		})}
		closing := make(http.Header)
		begun := time.Now()
		source := &generations{refresh: context.Context.Err}
		resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: source, ResponseHeader: closing}, body, -1))
		if err != nil || resp.StatusCode != 401 || read(t, resp) != "first answer" || attempts != 1 {
			t.Errorf("%v, %v after %d attempts", resp, err, attempts)
		}
		if d := time.Since(begun); d != DefaultHealTimeout {
			t.Errorf("answered after %v", d)
		}
		if closing.Get("Connection") != "close" {
			t.Error("the connection stays open")
		}
		if _, closed := body.state(); closed != 0 {
			t.Error("closed under a read that is under way")
		}
		_ = unstall.Close() // the client goes on, or its connection ends
		synctest.Wait()
		if _, closed := body.state(); closed != 1 {
			t.Errorf("closed %d times", closed)
		}
	})
}

// TestStreamIsNotHeldUp: an answer that comes while the client still sends is
// handed on at once, and the body flows on. PX-09.
func TestStreamIsNotHeldUp(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 401} {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			body := &clientBody{Reader: r}
			got := make(chan []byte, 1)
			tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				go func() {
					b, _ := io.ReadAll(r.Body)
					_ = r.Body.Close()
					got <- b
				}()
				synctest.Wait() // the reader waits for the client
				return answer(status, "early"), nil
			})}
			resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: &generations{}}, body, -1))
			if err != nil || resp.StatusCode != status {
				t.Errorf("%v, %v", resp, err)
			}
			sent := blob(3 * DefaultReplayBuffer)
			_, _ = w.Write(sent)
			_ = w.Close()
			if b := <-got; !bytes.Equal(b, sent) {
				t.Errorf("%d: %d bytes arrived of %d", status, len(b), len(sent))
			}
			if _, closed := body.state(); closed != 1 {
				t.Errorf("%d: closed %d times", status, closed)
			}
		})
	}
}

// TestReplayBufferIsLetGo: nothing of a body is held once it is clear that it
// will not be sent again.
func TestReplayBufferIsLetGo(t *testing.T) {
	t.Parallel()
	newBody := func(size int, length int64) (*replayBody, *http.Request) {
		req := upload(t.Context(), nil, &clientBody{Reader: bytes.NewReader(blob(size))}, length)
		b := newReplayBody(req, 1000, nil)
		out := *req
		b.attach(&out, 1)
		return b, &out
	}
	t.Run("another status", func(t *testing.T) {
		b, out := newBody(800, 800)
		_, _ = io.ReadAll(out.Body)
		if b.kept.size == 0 {
			t.Fatal("nothing is kept")
		}
		b.release()
		if b.kept.capacity() != 0 {
			t.Error("the buffer is held")
		}
	})
	t.Run("declared too long", func(t *testing.T) {
		b, out := newBody(2000, 2000)
		_, _ = io.ReadFull(out.Body, make([]byte, 10))
		if b.kept.capacity() != 0 {
			t.Error("a buffer is held")
		}
	})
	t.Run("turns out too long", func(t *testing.T) {
		b, out := newBody(2000, -1)
		_, _ = io.ReadFull(out.Body, make([]byte, 900))
		if b.kept.size == 0 {
			t.Fatal("nothing is kept")
		}
		_, _ = io.ReadFull(out.Body, make([]byte, 200))
		if b.kept.capacity() != 0 {
			t.Error("the buffer is held")
		}
	})
	t.Run("after the replay", func(t *testing.T) {
		b, out := newBody(800, 800)
		_, _ = io.ReadAll(out.Body)
		if !b.settle(t.Context()) {
			t.Fatal("cannot be sent again")
		}
		b.attach(out, 2)
		_, _ = io.ReadAll(out.Body)
		_ = out.Body.Close()
		if b.kept.capacity() != 0 {
			t.Error("the buffer is held")
		}
	})
	t.Run("no replay after all", func(t *testing.T) {
		b, out := newBody(800, 800)
		_, _ = io.ReadAll(out.Body)
		b.settle(t.Context())
		b.release()
		if b.kept.capacity() != 0 {
			t.Error("the buffer is held")
		}
	})
	t.Run("no token", func(t *testing.T) {
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			_, _ = io.ReadAll(r.Body)
			if r.Body.(*attemptBody).body.kept.capacity() != 0 {
				t.Error("a buffer is held")
			}
			return answer(200, ""), nil
		})}
		if _, err := tr.RoundTrip(upload(t.Context(), &Grant{}, &clientBody{Reader: strings.NewReader("x")}, 1)); err != nil {
			t.Error(err)
		}
	})
}

// TestAwaitedBody: a body that the client holds back until it hears 100
// (Continue), and that nobody has asked for, is sent after a refusal whatever
// its size.
func TestAwaitedBody(t *testing.T) {
	t.Parallel()
	const size = 10 * DefaultReplayBuffer
	for _, asked := range []bool{false, true} {
		body := &clientBody{Reader: bytes.NewReader(blob(size))}
		attempts := 0
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			attempts++
			if attempts == 1 {
				if asked {
					_, _ = io.ReadFull(r.Body, make([]byte, 1))
				}
				_ = r.Body.Close()
				return refusal(), nil
			}
			if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
				t.Errorf("replay read %d bytes, %v", n, err)
			}
			_ = r.Body.Close()
			return answer(200, "fine"), nil
		})}
		req := upload(t.Context(), &Grant{Source: &generations{}}, body, size)
		req.Header.Set("Expect", "100-Continue")
		resp, err := tr.RoundTrip(req)
		want := 200
		if asked {
			want = 401
		}
		if err != nil || resp.StatusCode != want {
			t.Errorf("asked %t: %v, %v; want %d", asked, resp, err, want)
		}
		if _, closed := body.state(); closed != 1 {
			t.Errorf("asked %t: closed %d times", asked, closed)
		}
	}
}

// TestReplayTrailers: each attempt has the trailer section of the client, less
// what a client may not say there. B206, PX-08.
func TestReplayTrailers(t *testing.T) {
	t.Parallel()
	g := &Grant{Source: &generations{}, ReservedHeader: func(name string) bool { return sameField(name, "x-user") }}
	body := &clientBody{Reader: strings.NewReader("hello")}
	req := upload(t.Context(), g, body, -1)
	req.Trailer = http.Header{"X-Sum": nil, "Authorization": nil}
	body.onEOF = func() {
		clear(req.Trailer)
		for _, name := range []string{"X-Sum", "X-Late", "Authorization", "Proxy_Authorization", "DPoP", "Cookie", "X-User", "X_user"} {
			req.Trailer[name] = []string{"v"}
		}
	}
	attempts := 0
	tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		attempts++
		if _, ok := r.Trailer["Authorization"]; ok {
			t.Errorf("attempt %d announces Authorization", attempts)
		}
		_, announced := r.Trailer["X-Sum"]
		b, err := io.ReadAll(r.Body)
		if string(b) != "hello" || err != nil || !announced {
			t.Errorf("attempt %d: %q, %v, announced %t", attempts, b, err, announced)
		}
		if len(r.Trailer) != 2 || r.Trailer.Get("X-Sum") != "v" || r.Trailer.Get("X-Late") != "v" {
			t.Errorf("attempt %d has trailer section %v", attempts, r.Trailer)
		}
		_ = r.Body.Close()
		if attempts == 1 {
			return refusal(), nil
		}
		return answer(200, "fine"), nil
	})}
	if resp, err := tr.RoundTrip(req); err != nil || resp.StatusCode != 200 || attempts != 2 {
		t.Errorf("%v, %v after %d attempts", resp, err, attempts)
	}
}

// TestClientBreaksOff: a body that ends with an error is not sent again.
func TestClientBreaksOff(t *testing.T) {
	t.Parallel()
	gone := errors.New("connection reset by client")
	body := &clientBody{Reader: io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(gone))}
	attempts := 0
	tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		attempts++
		if _, err := io.ReadAll(r.Body); !errors.Is(err, gone) {
			t.Errorf("read error %v", err)
		}
		return refusal(), nil
	})}
	resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: &generations{}}, body, 5))
	if err != nil || resp.StatusCode != 401 || attempts != 1 {
		t.Errorf("%v, %v after %d attempts", resp, err, attempts)
	}
}

// TestReplayBodyRaces has resource servers that refuse at any moment of a body, at
// many at once, for the race detector. What arrives whole is what was sent.
func TestReplayBodyRaces(t *testing.T) {
	t.Parallel()
	const limit = 4 << 10
	var whole, healed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				sent := blob(rand.IntN(2 * limit))
				length := int64(-1)
				if len(sent) > 0 && rand.IntN(2) == 0 {
					length = int64(len(sent))
				}
				body := &clientBody{Reader: bytes.NewReader(sent)}
				take, attempts := rand.IntN(2*limit), 0
				var background sync.WaitGroup
				tr := &Transport{ReplayBuffer: limit, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					attempts++
					if attempts == 1 {
						ready := make(chan struct{})
						background.Go(func() {
							_, _ = io.CopyN(io.Discard, r.Body, int64(take))
							close(ready)
							_, _ = io.Copy(io.Discard, r.Body)
							_ = r.Body.Close()
						})
						<-ready
						return refusal(), nil
					}
					got, err := io.ReadAll(r.Body)
					_ = r.Body.Close()
					if err != nil || !bytes.Equal(got, sent) {
						t.Errorf("replay read %d bytes of %d, %v", len(got), len(sent), err)
					}
					whole.Add(1)
					return answer(200, "fine"), nil
				})}
				resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: &generations{}}, body, length))
				if err != nil {
					t.Error(err)
					return
				}
				if resp.StatusCode == 200 {
					healed.Add(1)
				} else if len(sent) <= limit {
					t.Errorf("%d bytes were not sent again", len(sent))
				}
				background.Wait()
			}
		})
	}
	wg.Wait()
	if healed.Load() == 0 || healed.Load() != whole.Load() {
		t.Errorf("%d healed, %d whole", healed.Load(), whole.Load())
	}
}
