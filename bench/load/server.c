/* The far end: echoes, swallows or produces bytes. One thread, one epoll loop, no allocation per message. */
#define _GNU_SOURCE /* accept4 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "frames.h"
#include "modes.h"

struct bulk {
    struct sender out;
    struct receiver in;
    bool sending, answered;
};

struct peer {
    int fd; /* of a listener or of a connection */
    const struct address *listener;
    char role;
    uint32_t events;
    struct bulk *bulk;
    uint8_t *pending; /* echo bytes the socket did not take yet */
    size_t pending_size, pending_sent;
};

static uint8_t scratch[READ_BYTES];

static void drop(struct peer *p)
{
    close(p->fd);
    free(p->bulk);
    free(p->pending);
    free(p);
}

static void want(int epoll, struct peer *p, uint32_t events)
{
    if (p->events != events)
        change_in_epoll(epoll, p->fd, p->events = events, p);
}

static bool echo_back(int epoll, struct peer *p, const uint8_t *bytes, size_t size)
{
    ssize_t n = send(p->fd, bytes, size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        return false;
    size_t sent = n < 0 ? 0 : (size_t)n;
    if (sent < size) { /* stop reading until it is out: what we hold is bounded by one read */
        p->pending = malloc(size - sent);
        if (p->pending == NULL)
            return false;
        memcpy(p->pending, bytes + sent, p->pending_size = size - sent);
        p->pending_sent = 0;
        want(epoll, p, EPOLLOUT);
    }
    return true;
}

static bool echo_pending(int epoll, struct peer *p)
{
    ssize_t n = send(p->fd, p->pending + p->pending_sent, p->pending_size - p->pending_sent, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN;
    p->pending_sent += (size_t)n;
    if (p->pending_sent == p->pending_size) {
        free(p->pending);
        p->pending = NULL;
        want(epoll, p, EPOLLIN);
    }
    return true;
}

static bool bulk_push(int epoll, struct peer *p)
{
    struct bulk *b = p->bulk;
    if (b->in.ended && !b->answered) {
        /* the number of frames is fixed from here on: the one under way is finished, then come the end and the counts */
        uint64_t sent = b->out.offset > 0 ? (b->out.frame + 1) * FRAME_BYTES : b->out.frame * FRAME_BYTES;
        struct report report = {b->in.payload, sent, b->in.corrupt};
        sender_end(&b->out, &report);
        b->answered = true;
    }
    if (!b->sending && !b->answered)
        return true;
    enum pushed result = sender_push(&b->out, p->fd);
    if (result == PUSH_FAILED)
        return false;
    want(epoll, p, result == PUSH_DONE ? EPOLLIN : EPOLLIN | EPOLLOUT);
    return true;
}

static bool take_role(struct peer *p, char role)
{
    if (strchr("esgSG", role) == NULL)
        return false;
    p->role = role;
    if (role == ROLE_ECHO)
        return true;
    p->bulk = calloc(1, sizeof *p->bulk);
    if (p->bulk == NULL)
        return false;
    p->bulk->sending = role == ROLE_SOURCE || role == ROLE_SOURCE_VERIFY;
    p->bulk->in.verify = role == ROLE_SINK_VERIFY || role == ROLE_SOURCE_VERIFY;
    return true;
}

static bool serve_readable(int epoll, struct peer *p)
{
    ssize_t n = recv(p->fd, scratch, sizeof scratch, 0);
    if (n < 0)
        return errno == EAGAIN;
    if (n == 0)
        return false;
    const uint8_t *bytes = scratch;
    size_t size = (size_t)n;
    if (p->role == 0) {
        if (!take_role(p, (char)*bytes))
            return false;
        bytes++;
        size--;
    }
    if (p->role == ROLE_ECHO)
        return size == 0 || echo_back(epoll, p, bytes, size);
    if (!receiver_feed(&p->bulk->in, bytes, size))
        return false;
    if (p->bulk->in.ended || (p->bulk->sending && !(p->events & EPOLLOUT)))
        return p->bulk->out.done || bulk_push(epoll, p);
    return true;
}

static void accept_all(int epoll, const struct peer *listener, char role)
{
    for (;;) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
                return;
            die("accept at %s: %s", listener->listener->text, strerror(errno));
        }
        struct peer *p = calloc(1, sizeof *p);
        if (p == NULL)
            die("out of memory");
        p->fd = fd;
        p->events = EPOLLIN;
        set_nodelay(fd, listener->listener);
        if (role != 0 && !take_role(p, role))
            die("out of memory");
        add_to_epoll(epoll, fd, p->events, p);
        if (p->bulk != NULL && p->bulk->sending && !bulk_push(epoll, p))
            drop(p);
    }
}

int run_server(const struct options *o)
{
    struct peer listeners[MAX_LISTENERS] = {0};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        die("epoll_create1: %s", strerror(errno));
    for (unsigned i = 0; i < o->listeners; i++) {
        listeners[i].listener = &o->at[i];
        listeners[i].fd = listen_at(&o->at[i]);
        add_to_epoll(epoll, listeners[i].fd, EPOLLIN, &listeners[i]);
    }
    puts("{\"event\":\"listening\"}");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            struct peer *p = events[i].data.ptr;
            if (p->listener != NULL) {
                accept_all(epoll, p, o->role);
                continue;
            }
            bool alive = true;
            if (events[i].events & EPOLLOUT)
                alive = p->pending != NULL ? echo_pending(epoll, p) : p->bulk == NULL || bulk_push(epoll, p);
            /* EPOLLERR and EPOLLHUP are read as the error or the end they stand for */
            if (alive && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                alive = p->pending != NULL ? !(events[i].events & EPOLLERR) : serve_readable(epoll, p);
            if (!alive)
                drop(p);
        }
    }
}
