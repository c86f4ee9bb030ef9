#include "frames.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { SHIFTS = 4096, FRAMES_PER_TURN = 16 };

static uint8_t pattern[FRAME_BYTES + SHIFTS];

void frames_init(void)
{
    uint64_t x = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < sizeof pattern; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        pattern[i] = (uint8_t)x;
    }
}

static const uint8_t *payload_of(uint64_t frame)
{
    return pattern + frame * 61 % SHIFTS;
}

void sender_end(struct sender *s, const struct report *report)
{
    s->ending = true;
    memset(s->tail, 0, HEADER_BYTES);
    if (report != NULL) {
        uint64_t fields[3] = {htobe64(report->received), htobe64(report->sent), htobe64(report->corrupt)};
        memcpy(s->tail + HEADER_BYTES, fields, sizeof fields);
        s->with_report = true;
    }
}

static enum pushed push_tail(struct sender *s, int fd)
{
    size_t size = HEADER_BYTES + (s->with_report ? REPORT_BYTES : 0);
    ssize_t n = send(fd, s->tail + s->tail_sent, size - s->tail_sent, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN ? PUSH_BLOCKED : PUSH_FAILED;
    s->tail_sent += (size_t)n;
    if (s->tail_sent < size)
        return PUSH_BLOCKED;
    s->done = true;
    return PUSH_DONE;
}

enum pushed sender_push(struct sender *s, int fd)
{
    for (int turn = 0; turn < FRAMES_PER_TURN && !s->done; turn++) {
        if (s->ending && s->offset == 0)
            return push_tail(s, fd);
        uint32_t header = htobe32(FRAME_BYTES);
        size_t head = s->offset < HEADER_BYTES ? HEADER_BYTES - s->offset : 0;
        size_t body = s->offset < HEADER_BYTES ? 0 : s->offset - HEADER_BYTES;
        struct iovec pieces[2] = {
            {.iov_base = (uint8_t *)&header + (HEADER_BYTES - head), .iov_len = head},
            {.iov_base = (void *)(payload_of(s->frame) + body), .iov_len = FRAME_BYTES - body},
        };
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? PUSH_BLOCKED : PUSH_FAILED;
        s->payload += (size_t)n > head ? (size_t)n - head : 0;
        s->offset += (size_t)n;
        if (s->offset == HEADER_BYTES + FRAME_BYTES) {
            s->offset = 0;
            s->frame++;
        }
    }
    return s->done ? PUSH_DONE : PUSH_MORE;
}

static bool take_header(struct receiver *r)
{
    uint32_t length;
    memcpy(&length, r->header, sizeof length);
    r->left = r->length = be32toh(length);
    r->have = 0;
    if (r->length == 0)
        r->ended = true;
    return r->length <= FRAME_BYTES;
}

static void take_report(struct receiver *r)
{
    uint64_t fields[3];
    memcpy(fields, r->header, sizeof fields);
    r->report = (struct report){be64toh(fields[0]), be64toh(fields[1]), be64toh(fields[2])};
    r->reported = true;
}

bool receiver_feed(struct receiver *r, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        if (r->left > 0) {
            size_t take = size < r->left ? size : r->left;
            if (r->verify && memcmp(bytes, payload_of(r->frame) + (r->length - r->left), take) != 0)
                r->corrupt++;
            r->left -= (uint32_t)take;
            r->payload += take;
            if (r->left == 0)
                r->frame++;
            bytes += take;
            size -= take;
            continue;
        }
        if (r->reported || (r->ended && !r->want_report))
            return false; /* bytes behind the end */
        size_t want = r->ended ? REPORT_BYTES : HEADER_BYTES;
        size_t take = size < want - r->have ? size : want - r->have;
        memcpy(r->header + r->have, bytes, take);
        r->have += take;
        bytes += take;
        size -= take;
        if (r->have < want)
            return true;
        if (r->ended)
            take_report(r);
        else if (!take_header(r))
            return false;
    }
    return true;
}
