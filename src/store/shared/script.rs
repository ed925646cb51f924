//! What is done in Redis, each in one atomic step. Time is Redis' own, so that clocks of instances need not agree.
//!
//! A verdict is `TAG AT CONFIRMED CODE TEXT`: g(ood), b(ad) or x (gone), learnt at that millisecond. A later one replaces an
//! earlier one, never the other way round; of two of the same moment the good one stays. What only failed to be found out is not
//! written at all. A lease is the token of who asks the store, with a `+` behind it once somebody waits for the answer.
//!
//! What is forgotten reaches everybody, also those who were away, whatever becomes of clocks. Recipients and pardons are entries of a log,
//! each with a place: one more than the one before. A domain has a generation and everything has an epoch, and each order counts it
//! up: two that are given apart are two. Keys of recipients are of one epoch, so that who forgets one in an epoch that is over forgets
//! everything. An order that is told twice is carried out once, for its instance numbers them. All of it
//! hangs on one key, `forgotten`: whoever finds another `life` there than it knew knows that Redis has lost everything.

/// What is sent, by the hash Redis gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Is the recipient known, or may we ask the store?
    Consult,
    /// A verdict, and the end of a lease.
    Learn,
    /// The store is still being asked.
    Renew,
    /// One recipient is forgotten everywhere.
    ForgetKey,
    /// A domain is forgotten everywhere.
    ForgetDomain,
    /// Everything is forgotten everywhere.
    ForgetAll,
    /// The generation of a domain, for a Redis that lost it.
    Generation,
    /// Marks of a domain.
    Mark,
    /// What a client was told, and leave to ask for more.
    Count,
    /// A client is banned everywhere.
    Ban,
    /// A ban is lifted everywhere.
    Pardon,
    /// What was forgotten and lifted meanwhile.
    Attend,
}

impl Script {
    /// In the order of their discriminants.
    pub(super) const ALL: [(Self, &'static str); 12] = [
        (Self::Consult, CONSULT),
        (Self::Learn, LEARN),
        (Self::Renew, RENEW),
        (Self::ForgetKey, FORGET_KEY),
        (Self::ForgetDomain, FORGET_DOMAIN),
        (Self::ForgetAll, FORGET_ALL),
        (Self::Generation, GENERATION),
        (Self::Mark, MARK),
        (Self::Count, COUNT),
        (Self::Ban, BAN),
        (Self::Pardon, PARDON),
        (Self::Attend, ATTEND),
    ];
}

/// Entries of the log of what was forgotten: who misses one of those that were let go forgets everything.
pub(super) const MOST_LOGGED: usize = 10_000;

/// Of an order to forget. Keys: forgotten, the last order of this instance. Argument: its number. Carried out once.
macro_rules! once {
    () => {
        r"
if tonumber(redis.call('GET', KEYS[2]) or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', 3600000)
"
    };
}

/// Key: forgotten. A new epoch begins: no domain has been forgotten in it.
macro_rules! begin {
    () => {
        r"
local function begin(epoch)
  local life, last = redis.call('HGET', KEYS[1], 'life'), redis.call('HGET', KEYS[1], 'last')
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'changes', 0, 'last', last or 0)
  if life then redis.call('HSET', KEYS[1], 'life', life) end
end
"
    };
}

/// Keys: verdict, lease, marks. Arguments: token, milliseconds of a lease, the age in milliseconds up to which a good and a bad
/// verdict serve.
const CONSULT: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local marks = redis.call('GET', KEYS[3]) or ''
local known = redis.call('GET', KEYS[1]) or ''
local tag, at = string.match(known, '^(%a) (%d+)')
if at then
  local most = tag == 'g' and ARGV[3] or tag == 'b' and ARGV[4] or '-1'
  if now - tonumber(at) <= tonumber(most) then return {'known', now, known, marks} end
end
local lease = redis.call('GET', KEYS[2])
if not lease or string.sub(lease, 1, #ARGV[1]) == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  return {'leased', now, known, marks}
end
if string.sub(lease, -1) ~= '+' then
  redis.call('SET', KEYS[2], lease .. '+', 'PX', math.max(1, redis.call('PTTL', KEYS[2])))
end
return {'held', now, known, marks}
";

/// Keys: verdict, lease, channel. Arguments: tag (empty: no verdict), age and lifetime in milliseconds, the rest of the verdict, the
/// token (empty: no lease ends), what to tell those who wait.
const LEARN: &str = r"
if ARGV[1] ~= '' then
  local t = redis.call('TIME')
  local at = t[1] * 1000 + math.floor(t[2] / 1000) - tonumber(ARGV[2])
  local tag, was = string.match(redis.call('GET', KEYS[1]) or '', '^(%a) (%d+)')
  was = tonumber(was or -1)
  if was < at or (was == at and tag ~= 'g') then
    -- The text has zero octets, which string.format would take for its end.
    redis.call('SET', KEYS[1], ARGV[1] .. string.format(' %d ', at) .. ARGV[4], 'PX', ARGV[3])
  end
end
if ARGV[5] ~= '' then
  local lease = redis.call('GET', KEYS[2]) or ''
  if string.sub(lease, 1, #ARGV[5]) == ARGV[5] then
    redis.call('DEL', KEYS[2])
    if string.sub(lease, -1) == '+' then redis.call('PUBLISH', KEYS[3], ARGV[6]) end
  end
end
return 1
";

/// Key: lease. Arguments: token, milliseconds.
const RENEW: &str = r"
local lease = redis.call('GET', KEYS[1]) or ''
if string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";

/// Keys: forgotten, the last order, log, channel, verdicts. Arguments: number, how long what was learnt before must not come back, how
/// many entries the log has at most, what to log without its place, the epoch the recipient was forgotten in, the message of a new epoch
/// without it. Gives the new epoch, where one had to begin.
const FORGET_KEY: &str = concat!(
    once!(),
    begin!(),
    r"
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
if tonumber(ARGV[5]) < epoch then
  -- It has another key by now, which nobody can make of the old one.
  begin(epoch + 1)
  redis.call('PUBLISH', KEYS[4], string.format('%s %d', ARGV[6], epoch + 1))
  return {epoch + 1}
end
local t = redis.call('TIME')
local gone = string.format('x %d 0 0 ', t[1] * 1000 + math.floor(t[2] / 1000))
for at = 5, #KEYS do redis.call('SET', KEYS[at], gone, 'PX', ARGV[2]) end
local place = redis.call('HINCRBY', KEYS[1], 'last', 1)
local entry = string.format('%s %d', ARGV[4], place)
redis.call('ZADD', KEYS[3], place, entry)
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('PUBLISH', KEYS[4], entry)
return 1
"
);

/// Keys: forgotten, the last order, channel. Arguments: number, epoch and generation as its instance has them, the domain's hash, the message
/// without generation and epoch.
const FORGET_DOMAIN: &str = concat!(
    once!(),
    begin!(),
    r"
local epoch, theirs = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0), tonumber(ARGV[2])
if theirs > epoch then
  begin(theirs)
  epoch = theirs
end
local generation = tonumber(redis.call('HGET', KEYS[1], ARGV[4]) or 0) + 1
if theirs == epoch then generation = math.max(generation, tonumber(ARGV[3])) end
redis.call('HSET', KEYS[1], ARGV[4], generation)
redis.call('HINCRBY', KEYS[1], 'changes', 1)
redis.call('PUBLISH', KEYS[3], string.format('%s %d %d', ARGV[5], generation, epoch))
return {generation, epoch}
"
);

/// Keys: forgotten, the last order, channel. Arguments: number, epoch as its instance has it, the message without it. The new epoch is
/// new to its instance too, which did not hear what others forgot in the one before while it was in its own.
const FORGET_ALL: &str = concat!(
    once!(),
    begin!(),
    r"
local epoch = math.max(tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0), tonumber(ARGV[2])) + 1
begin(epoch)
redis.call('PUBLISH', KEYS[3], string.format('%s %d', ARGV[3], epoch))
return {epoch}
"
);

/// Keys: forgotten, channel. Arguments: epoch, the domain's hash, its generation, the message without generation and epoch. Where
/// somebody who knew less has forgotten the domain meanwhile, that is one more.
const GENERATION: &str = r"
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
if tonumber(ARGV[1]) ~= epoch then return 0 end
local known, generation = tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0), tonumber(ARGV[3])
if known >= generation then return 0 end
if known > 0 then generation = generation + 1 end
redis.call('HSET', KEYS[1], ARGV[2], generation)
redis.call('HINCRBY', KEYS[1], 'changes', 1)
redis.call('PUBLISH', KEYS[2], string.format('%s %d %d', ARGV[4], generation, epoch))
return 1
";

/// Keys: marks, channel. Arguments: lifetime, the message, then truth and age in milliseconds of each test. The later one counts.
const MARK: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local old = {}
for truth, at in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%a) (%d+)') do old[#old + 1] = {truth, tonumber(at)} end
local new, news = {}, false
for test = 1, 3 do
  local truth, at = ARGV[1 + 2 * test], now - tonumber(ARGV[2 + 2 * test])
  if truth == 'u' then at = 0 end
  if old[test] and old[test][2] >= at then truth, at = old[test][1], old[test][2]
  elseif not old[test] or old[test][1] ~= truth then news = true end
  new[test] = string.format('%s %d', truth, at)
end
redis.call('SET', KEYS[1], table.concat(new, ' '), 'PX', ARGV[1])
if news then redis.call('PUBLISH', KEYS[2], ARGV[2]) end
return 1
";

/// Key: the client. Arguments: token, the number of the request, what it was told (see [`super::accounts::Statement`]), recipients it
/// has leave for here and no answer to yet, recipients it wants to ask for besides, how many unknown ones are allowed. What waits for
/// an answer is told as a whole each time, so that a request that got lost corrects itself; what was told under a number that was
/// counted already, or comes behind a later one, is not counted again. What an instance that died had left is void after a minute.
/// Spans are three minutes, as in the ledger of each instance.
const COUNT: &str = r"
local now = tonumber(redis.call('TIME')[1])
local span = math.floor(now / 180)
local function add(kind, ago, number)
  if tonumber(number) > 0 then redis.call('HINCRBY', KEYS[1], string.format('%s%d', kind, span - tonumber(ago)), number) end
end
local me = 'p' .. ARGV[1]
local last = tonumber(string.match(redis.call('HGET', KEYS[1], me) or '', '(%d+)$') or 0)
for number, told in string.gmatch(ARGV[3], '(%d+):([^;]*)') do
  if tonumber(number) > last then
    for ago, u, k in string.gmatch(told, '(%d+) (%d+) (%d+)') do
      add('u', ago, u)
      add('k', ago, k)
    end
  end
end
local unknown, known, others, mine = 0, 0, 0, tonumber(ARGV[4])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local kind, rest = string.sub(all[i], 1, 1), string.sub(all[i], 2)
  if kind == 'p' then
    local number, at = string.match(all[i + 1], '^(%d+) (%d+)')
    local age = now - tonumber(at)
    if age > 3780 then redis.call('HDEL', KEYS[1], all[i])
    elseif age <= 60 and rest ~= ARGV[1] then others = others + tonumber(number) end
  else
    local age, number = span - tonumber(rest), tonumber(all[i + 1])
    if age > 20 then
      redis.call('HDEL', KEYS[1], all[i])
      number = 0
    elseif age == 20 then number = math.floor(number * (180 - now % 180) / 180) end
    if kind == 'u' then unknown = unknown + number else known = known + number end
  end
end
if tonumber(ARGV[2]) <= last then return {0, unknown, known} end
local wanted = tonumber(ARGV[5])
local room = math.max(tonumber(ARGV[6]), 4 * known) + 1 - unknown - others - mine
local granted = math.max(0, math.min(wanted, room))
if others + mine == 0 then granted = math.max(granted, math.min(wanted, 1)) end
redis.call('HSET', KEYS[1], me, string.format('%d %d %d', mine + granted, now, ARGV[2]))
redis.call('EXPIRE', KEYS[1], 3780)
return {granted, unknown, known}
";

/// Keys: bans, reasons, channel. Arguments: the client, milliseconds, the reason, the message.
const BAN: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _, over in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], over)
  redis.call('HDEL', KEYS[2], over)
end
redis.call('ZADD', KEYS[1], string.format('%d', now + tonumber(ARGV[2])), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[4])
return 1
";

/// Keys: forgotten, log, channel, bans, reasons, the client, the order. Arguments: the client, how long the log lives, how many entries it
/// has at most, what to log without its place. Carried out once: what the client does afterwards is not forgiven.
const PARDON: &str = r"
if not redis.call('SET', KEYS[7], 1, 'NX', 'PX', 3600000) then return 0 end
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('DEL', KEYS[6])
local place = redis.call('HINCRBY', KEYS[1], 'last', 1)
local entry = string.format('%s %d', ARGV[4], place)
redis.call('ZADD', KEYS[2], place, entry)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', KEYS[3], entry)
return 1
";

/// Keys: forgotten, log, bans, reasons, channel. Arguments: the epoch that was agreed upon, the place until which the log is known, in
/// which life, how much is wanted (`all` or `changes`), the message of a new epoch without it, the name of a life that begins. Gives: the
/// life, the last place, epoch, changes, what is new in the log, and with `all` the generations and the bans with what remains of them.
const ATTEND: &str = concat!(
    begin!(),
    r"
local life, epoch = redis.call('HGET', KEYS[1], 'life'), tonumber(redis.call('HGET', KEYS[1], 'epoch') or -1)
if tonumber(ARGV[1]) > epoch then
  begin(ARGV[1])
  if epoch >= 0 then redis.call('PUBLISH', KEYS[5], ARGV[5] .. ' ' .. ARGV[1]) end
  epoch = tonumber(ARGV[1])
end
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or 0)
if not life then
  life = ARGV[6]
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. last, '+inf')
end
-- Says whether writes are taken at all, too.
redis.call('HSET', KEYS[1], 'life', life)
local known = life == ARGV[3] and ARGV[2] or '0'
local log = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. known, '+inf')
local generations, bans = {}, {}
if ARGV[4] == 'all' then
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  generations = redis.call('HGETALL', KEYS[1])
  local longest = redis.call('ZREVRANGEBYSCORE', KEYS[3], '+inf', now, 'WITHSCORES', 'LIMIT', 0, 5000)
  for i = 1, #longest, 2 do
    bans[#bans + 1] = longest[i]
    bans[#bans + 1] = string.format('%d', tonumber(longest[i + 1]) - now)
    bans[#bans + 1] = redis.call('HGET', KEYS[4], longest[i]) or '0 0'
  end
end
local changes = tonumber(redis.call('HGET', KEYS[1], 'changes') or 0)
return {life, last, epoch, changes, log, generations, bans}
"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_found_by_its_number() {
        for (at, (script, _)) in Script::ALL.iter().enumerate() {
            assert_eq!(*script as usize, at);
        }
    }
}
