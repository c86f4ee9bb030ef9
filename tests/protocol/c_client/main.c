/* Two ways to run the client of handshake_v2.c:
 *
 *   meshless-c-client vectors                                   one command per line on stdin, one line of answer each
 *   meshless-c-client connect SOCKET SERVICE [WISH=VALUE ...]   a connection: stdin to the service, the service to stdout,
 *                                                               what happens in words on stderr
 *
 * Exit status of connect: 0 the connection ended, 1 refused, 2 protocol error, 3 closed without a reply, 4 revoked, 9 mistake
 * of the caller or the system. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "handshake_v2.h"

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "not as expected");
    exit(9);
}

static size_t from_hex(const char *hex, uint8_t *out, size_t room)
{
    size_t size = strlen(hex) / 2;
    unsigned byte;
    if (size > room)
        die("too much hexadecimal");
    for (size_t i = 0; i < size; i++) {
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            die("hexadecimal");
        out[i] = (uint8_t)byte;
    }
    return size;
}

static void print_hex(FILE *to, const char *name, const uint8_t *bytes, size_t size)
{
    fprintf(to, " %s=", name);
    for (size_t i = 0; i < size; i++)
        fprintf(to, "%02x", bytes[i]);
}

static void print_value(FILE *to, const char *name, const struct hs_value *value)
{
    if (value->there)
        print_hex(to, name, value->bytes, value->size);
}

static void print_verdict(FILE *to, enum hs_verdict verdict, const struct hs_reply *reply)
{
    static const char *const names[] = {"more", "established", "refused", "protocol_error", "closed"};
    fputs(names[verdict], to);
    if (verdict != HS_ESTABLISHED && verdict != HS_REFUSED)
        return;
    fprintf(to, " code=%d form=%d", reply->code, reply->form);
    print_value(to, "connection_id", &reply->connection_id);
    print_value(to, "version", &reply->version);
    print_value(to, "endpoint", &reply->endpoint);
    print_value(to, "retry_after", &reply->retry_after);
    print_value(to, "text", &reply->text);
    if (reply->descriptor_follows)
        fputs(" descriptor_follows=", to);
}

static void print_notice(int kind, const uint8_t *text, size_t size, void *to)
{
    fprintf(to, "notice kind=%s", kind == 1 ? "drain" : "revoked");
    print_hex(to, "text", text, size);
    fputs(" ", to);
}

/* "name=value" into a wish; the texts stay where they are. */
static void add_wish(struct hs_wishes *wishes, char *word, uint8_t *sticky_key)
{
    char *value = strchr(word, '=');
    if (!value)
        die(word);
    *value++ = 0;
    if (!strcmp(word, "deadline_ms"))
        wishes->deadline_ms = (uint32_t)strtoul(value, NULL, 10);
    else if (!strcmp(word, "traceparent"))
        wishes->traceparent = value;
    else if (!strcmp(word, "sticky_key")) {
        wishes->sticky_key = sticky_key;
        wishes->sticky_key_size = from_hex(value, sticky_key, 64);
    } else if (!strcmp(word, "version_pin"))
        wishes->version_pin = value;
    else if (!strcmp(word, "accepts_descriptor"))
        wishes->accepts_descriptor = 1;
    else
        die(word);
}

static int run_vectors(void)
{
    static char line[64 * 1024];
    static uint8_t bytes[32 * 1024];
    static struct hs_reply reply;
    static struct hs_lease lease;
    static const char *const states[] = {"open", "revoked", "released", "protocol_error"};
    while (fgets(line, sizeof line, stdin)) {
        char *word = strtok(line, " \n");
        if (word && !strcmp(word, "request")) {
            struct hs_wishes wishes = {0};
            uint8_t sticky_key[64], request[HS_MAX_REQUEST];
            wishes.service_id = strtok(NULL, " \n");
            while ((word = strtok(NULL, " \n")))
                add_wish(&wishes, word, sticky_key);
            size_t size = hs_request(&wishes, request);
            hs_start(&reply, wishes.accepts_descriptor);
            fputs("request", stdout);
            print_hex(stdout, "bytes", request, size);
        } else if (word && !strcmp(word, "reply")) { /* "reply" alone is end-of-file */
            word = strtok(NULL, " \n");
            size_t used, size = word ? from_hex(word, bytes, sizeof bytes) : 0;
            enum hs_verdict verdict = hs_feed(&reply, bytes, size, &used);
            print_verdict(stdout, verdict, &reply);
            if (verdict == HS_ESTABLISHED)
                print_hex(stdout, "trailing", bytes + used, size - used);
        } else if (word && !strcmp(word, "start-lease")) {
            hs_lease_start(&lease);
            fputs("open", stdout);
        } else if (word && !strcmp(word, "lease")) {
            word = strtok(NULL, " \n");
            size_t size = word ? from_hex(word, bytes, sizeof bytes) : 0;
            fputs(states[hs_lease_feed(&lease, bytes, size, print_notice, stdout)], stdout);
        } else
            die(word ? word : "empty line");
        fputc('\n', stdout);
    }
    return 0;
}

static int dial(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || strlen(path) >= sizeof address.sun_path)
        die("socket");
    strcpy(address.sun_path, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die(path);
    return fd;
}

static void send_all(int fd, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        struct pollfd writable = {.fd = fd, .events = POLLOUT};
        if (sent < 0 && errno == EAGAIN)
            poll(&writable, 1, -1);
        else if (sent < 0 && errno != EINTR)
            return; /* the peer is gone; what it said is still to be read */
        else if (sent > 0) {
            bytes += sent;
            size -= (size_t)sent;
        }
    }
}

static enum hs_verdict read_reply(int fd, struct hs_reply *reply)
{
    uint8_t bytes[4 + HS_MAX_LENGTH];
    for (;;) {
        size_t used;
        ssize_t got = recv(fd, bytes, hs_wanted(reply), 0); /* never a byte beyond the reply */
        if (got < 0 && errno == EINTR)
            continue;
        enum hs_verdict verdict = hs_feed(reply, bytes, got < 0 ? 0 : (size_t)got, &used);
        if (verdict != HS_MORE)
            return verdict;
    }
}

/* The byte 00 with exactly one descriptor; -1 if it is anything else. */
static int receive_descriptor(int lease)
{
    uint8_t byte;
    struct iovec vector = {.iov_base = &byte, .iov_len = 1};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got;
    do
        got = recvmsg(lease, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    int descriptor = -1, count = 0;
    for (struct cmsghdr *part = got > 0 ? CMSG_FIRSTHDR(&message) : NULL; part; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; at + sizeof(int) <= part->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int one;
            memcpy(&one, CMSG_DATA(part) + at, sizeof one);
            if (count++ == 0)
                descriptor = one;
            else
                close(one);
        }
    }
    if (got == 1 && byte == 0 && count == 1 && !(message.msg_flags & MSG_CTRUNC))
        return descriptor;
    if (descriptor >= 0)
        close(descriptor);
    return -1;
}

static int talk(int service, int lease)
{
    static struct hs_lease state;
    uint8_t bytes[16 * 1024];
    struct pollfd waiting[3] = {{.fd = 0, .events = POLLIN}, {.fd = service, .events = POLLIN}, {.fd = lease, .events = POLLIN}};
    hs_lease_start(&state);
    for (;;) {
        if (poll(waiting, 3, -1) < 0) {
            if (errno == EINTR)
                continue;
            die("poll");
        }
        if (waiting[2].revents) {
            ssize_t got = recv(lease, bytes, sizeof bytes, 0);
            enum hs_lease_state now = hs_lease_feed(&state, bytes, got < 0 ? 0 : (size_t)got, print_notice, stderr);
            fputs("\n", stderr);
            if (now == HS_REVOKED || now == HS_LEASE_ERROR) {
                shutdown(service, SHUT_RDWR);
                return 4;
            }
            if (now == HS_RELEASED) { /* the agent is gone; the connection is not */
                fputs("released\n", stderr);
                close(lease);
                waiting[2].fd = -1;
            }
        }
        if (waiting[1].revents) {
            ssize_t got = recv(service, bytes, sizeof bytes, 0);
            if (got == 0)
                return 0;
            if (got > 0 && write(1, bytes, (size_t)got) != got)
                die("stdout");
            if (got < 0 && errno != EAGAIN && errno != EINTR)
                die("service");
        }
        if (waiting[0].revents) {
            ssize_t got = read(0, bytes, sizeof bytes);
            if (got > 0)
                send_all(service, bytes, (size_t)got);
            else {
                shutdown(service, SHUT_WR);
                waiting[0].fd = -1;
            }
        }
    }
}

/* An agent without version 2: the same service, without the wishes. */
static int connect_in_version_1(const char *path, const char *service_id)
{
    size_t size = strlen(service_id);
    uint8_t request[2 + 255] = {0x01, (uint8_t)size}, reply[2];
    int fd = dial(path);
    memcpy(request + 2, service_id, size);
    send_all(fd, request, 2 + size);
    if (recv(fd, reply, 2, MSG_WAITALL) != 2)
        return 3;
    fprintf(stderr, "version 1 code=%d\n", reply[1]);
    if (reply[0] != 0x01)
        return 2;
    return reply[1] ? 1 : talk(fd, -1);
}

static int run_connect(int count, char **words)
{
    static struct hs_reply reply;
    struct hs_wishes wishes = {.service_id = words[1]};
    uint8_t sticky_key[64], request[HS_MAX_REQUEST];
    for (int i = 2; i < count; i++)
        add_wish(&wishes, words[i], sticky_key);
    size_t size = hs_request(&wishes, request);
    if (!size)
        die("the request does not fit the protocol");
    int fd = dial(words[0]);
    send_all(fd, request, size);
    hs_start(&reply, wishes.accepts_descriptor);
    enum hs_verdict verdict = read_reply(fd, &reply);
    print_verdict(stderr, verdict, &reply);
    fputs("\n", stderr);
    if (verdict == HS_PROTOCOL_ERROR || verdict == HS_CLOSED)
        return verdict == HS_CLOSED ? 3 : 2;
    if (verdict == HS_REFUSED) {
        close(fd);
        return reply.form == 1 && reply.code == 1 ? connect_in_version_1(words[0], words[1]) : 1;
    }
    if (!reply.descriptor_follows)
        return talk(fd, -1);
    int service = receive_descriptor(fd);
    if (service < 0)
        return 2;
    fputs("leased\n", stderr);
    return talk(service, fd);
}

int main(int argc, char **argv)
{
    setvbuf(stderr, NULL, _IOLBF, 0);
    if (argc == 2 && !strcmp(argv[1], "vectors"))
        return run_vectors();
    if (argc >= 4 && !strcmp(argv[1], "connect"))
        return run_connect(argc - 2, argv + 2);
    fprintf(stderr, "usage: %s vectors | %s connect SOCKET SERVICE [WISH=VALUE ...]\n", argv[0], argv[0]);
    return 9;
}
