/* The client's side of the Meshless handshake: version 1, or version 2 with the offer to receive the service's socket. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "net.h"

enum { V1_REPLY = 2, V2_HEADER = 4, FIELD_HEADER = 3, ACCEPTS_DESCRIPTOR = 0x05, DESCRIPTOR_FOLLOWS = 0x16 };

void make_prologue(const char *service, bool hand_off, char role, struct prologue *out)
{
    uint8_t *at = out->bytes;
    out->handshake = 0;
    out->hand_off = hand_off && service != NULL;
    if (service != NULL) {
        size_t length = strlen(service);
        if (length < 1 || length > 255)
            die("service id %s: must have 1 to 255 bytes", service);
        *at++ = hand_off ? 2 : 1;
        if (hand_off) {
            size_t body = 1 + length + FIELD_HEADER;
            *at++ = (uint8_t)(body >> 8);
            *at++ = (uint8_t)body;
        }
        *at++ = (uint8_t)length;
        memcpy(at, service, length);
        at += length;
        if (hand_off) {
            static const uint8_t offer[FIELD_HEADER] = {ACCEPTS_DESCRIPTOR, 0, 0};
            memcpy(at, offer, sizeof offer);
            at += sizeof offer;
        }
        out->handshake = (size_t)(at - out->bytes);
    }
    if (role != 0)
        *at++ = (uint8_t)role;
    out->size = (size_t)(at - out->bytes);
}

const char *reply_name(uint8_t code)
{
    static const char *const names[] = {"OK", "UNSUPPORTED_VERSION", "MALFORMED_REQUEST", "SERVICE_NOT_FOUND",
                                        "ACCESS_DENIED", "NO_ENDPOINT", "CONNECTION_LIMIT", "TUNNEL_FAILED",
                                        "SERVICE_REFUSED", "TIMEOUT", "DRAINING", "OVERLOADED", "NOT_READY",
                                        "UNKNOWN_CLIENT"};
    if (code < sizeof names / sizeof *names)
        return names[code];
    return code == 255 ? "INTERNAL_ERROR" : "a code this program does not know";
}

void reply_begin(struct reply *r)
{
    r->have = 0;
    r->descriptor = -1;
}

/* Bytes of the whole answer as far as it is known by now, the byte that brings the descriptor included; 0: no reply. */
static size_t reply_size(const struct prologue *first, const struct reply *r)
{
    if (r->have < 1)
        return first->hand_off ? V2_HEADER : V1_REPLY;
    if (r->bytes[0] == 1)
        return V1_REPLY;
    if (r->bytes[0] != 2 || !first->hand_off)
        return 0;
    if (r->have < V2_HEADER)
        return V2_HEADER;
    size_t size = V2_HEADER + (size_t)(r->bytes[2] << 8 | r->bytes[3]);
    return r->bytes[1] == 0 ? size + 1 : size;
}

static bool descriptor_follows(const struct reply *r, size_t end)
{
    for (size_t at = V2_HEADER; at + FIELD_HEADER <= end; at += FIELD_HEADER + (size_t)(r->bytes[at + 1] << 8 | r->bytes[at + 2]))
        if ((r->bytes[at] & 0x7f) == DESCRIPTOR_FOLLOWS)
            return true;
    return false;
}

static ssize_t receive(int fd, struct reply *r, size_t size)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {r->bytes + r->have, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&r->descriptor, CMSG_DATA(c), sizeof(int));
    return n;
}

enum verdict reply_read(int fd, const struct prologue *first, struct reply *r)
{
    for (;;) {
        size_t want = reply_size(first, r);
        if (want == 0 || want > sizeof r->bytes)
            return errno = EPROTO, REPLY_LOST;
        bool version_2 = r->have > 0 && r->bytes[0] == 2;
        size_t fixed = version_2 ? V2_HEADER : V1_REPLY;
        bool descriptor_due = version_2 && r->have >= fixed && r->bytes[1] == 0;
        if (r->have >= fixed && r->have + descriptor_due >= want) {
            if (r->bytes[1] != 0)
                return REPLY_REFUSED;
            if (!first->hand_off)
                return REPLY_OK;
            if (!version_2)
                return errno = EPROTO, REPLY_LOST;
            if (!descriptor_follows(r, want - 1))
                return REPLY_RELAYED;
            if (r->have == want)
                return r->descriptor >= 0 && r->bytes[want - 1] == 0 ? REPLY_OK : (errno = EPROTO, REPLY_LOST);
        }
        /* of a version 2 answer one read takes all there is: behind the descriptor's byte there can be nothing yet */
        size_t room = first->hand_off ? sizeof r->bytes - r->have : want - r->have;
        ssize_t n = receive(fd, r, room);
        if (n < 0 && errno == EAGAIN)
            return REPLY_INCOMPLETE;
        if (n < 0)
            return REPLY_LOST;
        if (n == 0)
            return errno = 0, REPLY_LOST;
        r->have += (size_t)n;
    }
}
