/* New connections per second: `connections` slots, each connects, does the handshake, has one byte echoed, closes, begins
 * again. As the SDKs do, the first application byte waits for the handshake's reply. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "histogram.h"
#include "modes.h"

enum stage { CONNECTING, AWAIT_REPLY, AWAIT_ECHO };

struct slot {
    int fd;    /* -1: to be started (again) */
    int lease; /* of a connection that was handed over: where it was asked for; else -1 */
    enum stage stage;
    uint64_t started;
    struct reply reply;
};

struct failures { /* by where they showed */
    uint64_t connect, refused, lost;
    unsigned last_code; /* of the handshake replies that refused */
};

static struct histogram latencies;
static struct prologue first;
static struct failures failures;
static uint64_t backlog_full;

static void finish(int epoll, struct slot *s)
{
    epoll_ctl(epoll, EPOLL_CTL_DEL, s->fd, NULL); /* closing does it only for a socket that nobody else holds too */
    close(s->fd);
    if (s->lease >= 0)
        close(s->lease);
    s->fd = s->lease = -1;
}

/* Everything is a few bytes into an empty buffer: a short or refused write is a failure, not a wait. */
static bool write_out(struct slot *s, const uint8_t *bytes, size_t size)
{
    return send(s->fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static bool ask_for_echo(struct slot *s)
{
    uint8_t bytes[2];
    size_t size = first.size - first.handshake;
    memcpy(bytes, first.bytes + first.handshake, size);
    bytes[size++] = 'x';
    s->stage = AWAIT_ECHO;
    return write_out(s, bytes, size);
}

static bool speak(struct slot *s)
{
    if (first.handshake == 0)
        return ask_for_echo(s);
    s->stage = AWAIT_REPLY;
    reply_begin(&s->reply);
    return write_out(s, first.bytes, first.handshake);
}

static void start(int epoll, struct slot *s, const struct options *o)
{
    s->started = now_ns();
    s->fd = socket(o->to.at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        die("socket: %s", strerror(errno));
    set_nodelay(s->fd, &o->to);
    s->stage = CONNECTING;
    if (connect(s->fd, (const struct sockaddr *)&o->to.at, o->to.size) == 0) {
        add_to_epoll(epoll, s->fd, EPOLLIN, s);
        if (!speak(s)) {
            failures.lost++;
            finish(epoll, s);
        }
    } else if (errno == EINPROGRESS) {
        add_to_epoll(epoll, s->fd, EPOLLOUT, s);
    } else {
        if (errno == EAGAIN) /* a Unix listener with a full backlog; the slot tries again */
            backlog_full++;
        else if (failures.connect++ == 0)
            fprintf(stderr, "load: connect to %s: %s\n", o->to.text, strerror(errno));
        finish(epoll, s);
    }
}

/* True when the connection's work is done. Failures are counted and end it too. */
static bool step(int epoll, struct slot *s, const struct options *o, bool *failed)
{
    *failed = true;
    if (s->stage == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) {
            if (failures.connect++ == 0)
                fprintf(stderr, "load: connect to %s: %s\n", o->to.text, strerror(error));
            return true;
        }
        change_in_epoll(epoll, s->fd, EPOLLIN, s);
        if (!speak(s))
            return failures.lost++, true;
        return false;
    }
    if (s->stage == AWAIT_REPLY) {
        switch (reply_read(s->fd, &first, &s->reply)) {
        case REPLY_INCOMPLETE: return false;
        case REPLY_OK: break;
        case REPLY_REFUSED: failures.last_code = s->reply.bytes[1]; return failures.refused++, true;
        case REPLY_RELAYED: die("%s: the agent relays instead of handing over", o->to.text);
        default: return failures.lost++, true;
        }
        if (s->reply.descriptor >= 0) {
            s->lease = s->fd;
            s->fd = s->reply.descriptor;
            epoll_ctl(epoll, EPOLL_CTL_DEL, s->lease, NULL);
            add_to_epoll(epoll, s->fd, EPOLLIN, s);
        }
        return ask_for_echo(s) ? false : (failures.lost++, true);
    }
    char echoed;
    ssize_t n = recv(s->fd, &echoed, 1, 0);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0 || echoed != 'x')
        return failures.lost++, true;
    *failed = false;
    return true;
}

static int conclude(const struct options *o, double seconds, double cpu)
{
    uint64_t failed = failures.connect + failures.refused + failures.lost;
    printf("{\"mode\":\"connect\",\"connections\":%u,\"seconds\":%.6f,\"opened\":%" PRIu64 ",\"rate\":%.1f,\"failed\":%" PRIu64
           ",\"failed_connect\":%" PRIu64 ",\"failed_handshake\":%" PRIu64 ",\"failed_lost\":%" PRIu64
           ",\"backlog_full\":%" PRIu64 ",\"load_cpu_seconds\":%.6f,\"latency_ns\":",
           o->connections, seconds, latencies.total, (double)latencies.total / seconds, failed, failures.connect,
           failures.refused, failures.lost, backlog_full, cpu);
    histogram_json(&latencies, stdout);
    puts("}");
    if (failures.refused > 0)
        fprintf(stderr, "load: %s refused %" PRIu64 " handshakes, the last with code %u (%s)\n", o->to.text,
                failures.refused, failures.last_code, reply_name((uint8_t)failures.last_code));
    if (failed > 0)
        fprintf(stderr, "load: %" PRIu64 " of %" PRIu64 " connections to %s failed\n", failed, failed + latencies.total,
                o->to.text);
    return failed > 0;
}

int run_connect(const struct options *o)
{
    make_prologue(o->service, o->hand_off, o->plain ? 0 : ROLE_ECHO, &first);
    struct slot *slots = calloc(o->connections, sizeof *slots);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (slots == NULL || epoll < 0)
        die("cannot set up %u connections: %s", o->connections, strerror(errno));
    for (unsigned i = 0; i < o->connections; i++)
        slots[i].fd = slots[i].lease = -1;
    double cpu = cpu_seconds();
    uint64_t begin = now_ns(), until = begin + (uint64_t)(o->seconds * 1e9), last_progress = begin;
    unsigned active = 0;
    for (;;) {
        uint64_t now = now_ns();
        if (now < until)
            for (unsigned i = 0; i < o->connections; i++)
                if (slots[i].fd < 0) {
                    start(epoll, &slots[i], o);
                    active += slots[i].fd >= 0;
                }
        if (active == 0 && now >= until)
            break;
        struct epoll_event events[256];
        /* an empty table means every connect was turned away: wait a moment instead of spinning */
        int n = epoll_wait(epoll, events, 256, active > 0 ? 100 : 1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        now = now_ns();
        if (n > 0)
            last_progress = now;
        else if (now - last_progress > (uint64_t)SOCKET_TIMEOUT_SECONDS * 1000000000u)
            die("%s: nothing moved for %d s on %u connections", o->to.text, SOCKET_TIMEOUT_SECONDS, active);
        for (int i = 0; i < n; i++) {
            struct slot *s = events[i].data.ptr;
            bool failed;
            if (!step(epoll, s, o, &failed))
                continue;
            finish(epoll, s);
            active--;
            if (!failed && now < until)
                histogram_add(&latencies, now_ns() - s->started);
        }
    }
    return conclude(o, o->seconds, cpu_seconds() - cpu);
}
