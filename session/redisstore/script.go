// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

// outcome is what a script answers.
type outcome int64

const (
	done     outcome = 1  // it is as it should be now
	absent   outcome = 0  // there is no live record
	refused  outcome = -1 // there is another record, or no room
	unusable outcome = -2 // there is something that is no record
)

// script is one atomic change of one key.
type script struct {
	source string
	lua    *rueidis.Lua
}

func newScript(source string) *script {
	source = strings.TrimSpace(source)
	return &script{source: source, lua: rueidis.NewLuaScript(source)}
}

// Every script writes its value again when it finds its own write, so that WAIT
// has something to wait for.
var (
	// createScript: KEYS record; ARGV value, life in ms, longest value.
	createScript = newScript(`
local size = redis.call('STRLEN', KEYS[1])
if size > tonumber(ARGV[3]) then return -1 end
local value = redis.call('GET', KEYS[1])
if value and value ~= ARGV[1] then return -1 end
if tonumber(ARGV[2]) > 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1
`)

	// replaceScript: KEYS record; ARGV value, life in ms, longest value, what
	// the value to be replaced begins with.
	replaceScript = newScript(`
local size = redis.call('STRLEN', KEYS[1])
if size > tonumber(ARGV[3]) then return -2 end
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
if value ~= ARGV[1] then
  if string.sub(value, 1, 1) ~= string.sub(ARGV[4], 1, 1) then return -2 end
  if string.sub(value, 1, #ARGV[4]) ~= ARGV[4] then return -1 end
end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
else
  redis.call('DEL', KEYS[1])
end
return 1
`)

	// deleteScript: KEYS record; ARGV longest value. It gives what it deleted, as
	// far as a record may be long.
	deleteScript = newScript(`
local value = redis.call('GETRANGE', KEYS[1], 0, tonumber(ARGV[1]))
redis.call('DEL', KEYS[1])
return value
`)

	// joinScript: KEYS set; ARGV most members, age in microseconds at which one is
	// forgotten, members. A score is when a member was joined with, by the
	// server's clock, in microseconds: a double has them exactly. It gives 1, or
	// the members of a set that these are not in.
	joinScript = newScript(`
if redis.replicate_commands then redis.replicate_commands() end
local set = redis.call('ZRANGE', KEYS[1], -tonumber(ARGV[1]), -1)
local there = {}
for _, member in ipairs(set) do there[member] = true end
local ours = #set == 0
for i = 3, #ARGV do ours = ours or there[ARGV[i]] end
if not ours then return set end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - tonumber(ARGV[2])))
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1])
if over > 0 then
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, over - 1)) do redis.call('ZREM', KEYS[1], member) end
end
return 1
`)

	// A score of an index is the second in which the record expires, and in its
	// lower 20 bits the second in which the entry was last made, both by the
	// server's clock. 52 bits: a double has them exactly.

	// enterScript: KEYS index; ARGV member, life in s, most members or 0.
	enterScript = newScript(`
if redis.replicate_commands then redis.replicate_commands() end
local now = tonumber(redis.call('TIME')[1])
local expiry = now + tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now * 1048576))
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score then
  expiry = math.max(expiry, math.floor(tonumber(score) / 1048576))
elseif tonumber(ARGV[3]) > 0 and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return -1
end
redis.call('ZADD', KEYS[1], string.format('%.0f', expiry * 1048576 + now % 1048576), ARGV[1])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
redis.call('EXPIRE', KEYS[1], string.format('%.0f', math.floor(tonumber(last) / 1048576) - now + 1))
return 1
`)

	// leaveScript: KEYS index; ARGV the age in s below which an entry stays,
	// members.
	leaveScript = newScript(`
if redis.replicate_commands then redis.replicate_commands() end
local now = tonumber(redis.call('TIME')[1])
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and (now - tonumber(score) % 1048576) % 1048576 >= tonumber(ARGV[1]) then
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return 1
`)
)

// arguments gives a script's, as they are at the moment of sending: a life that
// is left is shorter by then than when the call began.
type arguments func() []string

func fixed(args ...string) arguments { return func() []string { return args } }

// run runs the script on the connection that everybody shares.
func (c *script) run(ctx context.Context, l *link, key string, args arguments) rueidis.RedisResult {
	return c.lua.Exec(ctx, l.Client, []string{key}, args())
}

// runAndWait runs the script on a connection of its own, and then waits until
// as many replicas have it. The connection goes back behind the caller's back:
// a server that does not answer would hold the caller up.
func (c *script) runAndWait(ctx context.Context, s *Store, l *link, key string, args arguments) (rueidis.RedisResult, error) {
	if err := s.own.acquire(ctx, stepTimeout); err != nil {
		return rueidis.RedisResult{}, err
	}
	client, giveBack := l.Dedicate()
	defer func() {
		s.running.Add(1) // in a call that is counted
		go func() {
			defer s.running.Done()
			defer s.own.release()
			giveBack()
		}()
	}()
	result := client.Do(ctx, client.B().Eval().Script(c.source).Numkeys(1).Key(key).Arg(args()...).Build())
	reply, err := result.ToMessage()
	if err != nil {
		return result, nil
	}
	if o, err := reply.AsInt64(); reply.IsArray() || reply.IsInt64() && err == nil && outcome(o) != done {
		return result, nil // nothing was written
	}
	wait := client.B().Wait().Numreplicas(int64(s.o.WaitReplicas)).Timeout(s.o.WaitTimeout.Milliseconds()).Build()
	n, err := client.Do(ctx, wait).AsInt64()
	if err != nil {
		return rueidis.RedisResult{}, fmt.Errorf("waiting for replicas: %w", err)
	}
	if n < int64(s.o.WaitReplicas) {
		return rueidis.RedisResult{}, fmt.Errorf("%w: %d of %d replicas", errNotAcknowledged, n, s.o.WaitReplicas)
	}
	return result, nil
}
