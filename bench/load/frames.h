/* The bulk stream: frames of [4-byte big-endian length][payload], length 0 ends it, a 24-byte report follows the end.
 *
 * It lets a side stop when its time is up without closing, so that a run does not depend on how a proxy treats half-close,
 * and lets both sides compare byte counts. Payloads are cut from a fixed pattern at a place the frame's number decides:
 * with `verify` a lost, repeated or reordered piece of the stream shows. */
#ifndef LOAD_FRAMES_H
#define LOAD_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FRAME_BYTES = 64 * 1024, HEADER_BYTES = 4, REPORT_BYTES = 24, READ_BYTES = 256 * 1024 };

struct report { /* what one side counted, told to the other */
    uint64_t received, sent, corrupt;
};

struct sender {
    uint64_t frame;    /* number of the frame under way */
    uint64_t payload;  /* payload bytes handed to the kernel */
    size_t offset;     /* bytes of the frame under way already sent, header included */
    bool ending;       /* no further frame: the end goes out after the one under way */
    bool with_report;
    size_t tail_sent;
    uint8_t tail[HEADER_BYTES + REPORT_BYTES];
    bool done;
};

struct receiver {
    uint64_t frame, payload, corrupt;
    uint8_t header[HEADER_BYTES + REPORT_BYTES];
    size_t have;      /* header (or report) bytes so far */
    uint32_t left, length;
    bool verify, ended, want_report, reported;
    struct report report;
};

enum pushed { PUSH_BLOCKED, PUSH_MORE, PUSH_DONE, PUSH_FAILED };

void frames_init(void);
/* Sends until the socket is full, the stream has ended, or some frames are out (so that others get their turn). */
enum pushed sender_push(struct sender *s, int fd);
/* Makes the stream end; a report, if given, follows the end. */
void sender_end(struct sender *s, const struct report *report);
/* Takes what was read; false if it is no valid stream. */
bool receiver_feed(struct receiver *r, const uint8_t *bytes, size_t size);

#endif
