#include "handshake_v2.h"

#include <string.h>

static uint8_t *put_field(uint8_t *at, uint8_t type, const void *value, size_t size)
{
    *at++ = type;
    *at++ = (uint8_t)(size >> 8);
    *at++ = (uint8_t)size;
    if (size)
        memcpy(at, value, size);
    return at + size;
}

static size_t u16(const uint8_t *at)
{
    return (size_t)at[0] << 8 | at[1];
}

size_t hs_request(const struct hs_wishes *wishes, uint8_t *out)
{
    size_t id_size = strlen(wishes->service_id);
    uint8_t *at = out + 3;
    if (id_size < 1 || id_size > 255 || wishes->sticky_key_size > 64)
        return 0;
    if (wishes->traceparent && strlen(wishes->traceparent) != 55)
        return 0;
    if (wishes->version_pin && (strlen(wishes->version_pin) < 1 || strlen(wishes->version_pin) > 63))
        return 0;
    *at++ = (uint8_t)id_size;
    memcpy(at, wishes->service_id, id_size);
    at += id_size;
    if (wishes->deadline_ms) {
        uint32_t ms = wishes->deadline_ms;
        uint8_t value[4] = {(uint8_t)(ms >> 24), (uint8_t)(ms >> 16), (uint8_t)(ms >> 8), (uint8_t)ms};
        at = put_field(at, 0x01, value, sizeof value);
    }
    if (wishes->traceparent)
        at = put_field(at, 0x02, wishes->traceparent, 55);
    if (wishes->sticky_key_size)
        at = put_field(at, 0x03, wishes->sticky_key, wishes->sticky_key_size);
    if (wishes->version_pin)
        at = put_field(at, 0x04, wishes->version_pin, strlen(wishes->version_pin));
    if (wishes->accepts_descriptor)
        at = put_field(at, 0x05, NULL, 0);
    size_t length = (size_t)(at - out) - 3;
    out[0] = 0x02;
    out[1] = (uint8_t)(length >> 8);
    out[2] = (uint8_t)length;
    return length + 3;
}

void hs_start(struct hs_reply *reply, int offered)
{
    memset(reply, 0, sizeof *reply);
    reply->offered = offered;
}

static size_t whole(const struct hs_reply *reply)
{
    if (reply->have < 1)
        return 2; /* the shorter of the two forms */
    if (reply->buffer[0] == 0x01)
        return 2;
    return reply->have < 4 ? 4 : 4 + u16(reply->buffer + 2);
}

size_t hs_wanted(const struct hs_reply *reply)
{
    return whole(reply) - reply->have;
}

static int take(struct hs_value *into, const uint8_t *value, size_t size, size_t smallest, size_t largest)
{
    if (size < smallest || size > largest)
        return 0;
    into->there = 1;
    into->size = size;
    memcpy(into->bytes, value, size);
    return 1;
}

/* Whether all fields are in order. */
static int read_fields(struct hs_reply *reply, const uint8_t *at, const uint8_t *end)
{
    uint8_t seen[128] = {0};
    while (at < end) {
        if (end - at < 3)
            return 0;
        uint8_t type = at[0], number = type & 0x7f;
        size_t size = u16(at + 1);
        const uint8_t *value = at + 3;
        int good = 1;
        if (size > (size_t)(end - value) || seen[number]++)
            return 0;
        switch (number) {
        case 0x11: good = take(&reply->connection_id, value, size, 16, 16); break;
        case 0x12: good = take(&reply->version, value, size, 1, 63); break;
        case 0x13: good = take(&reply->endpoint, value, size, 3, 317); break;
        case 0x14: good = take(&reply->retry_after, value, size, 4, 4); break;
        case 0x15: good = take(&reply->text, value, size, 0, 256); break;
        case 0x16:
            good = size == 0;
            reply->descriptor_follows = 1;
            break;
        default: good = !(type & 0x80);
        }
        if (!good)
            return 0;
        at = value + size;
    }
    return !reply->descriptor_follows || (reply->code == 0 && reply->offered);
}

enum hs_verdict hs_feed(struct hs_reply *reply, const uint8_t *data, size_t size, size_t *used)
{
    *used = 0;
    if (size == 0)
        return HS_CLOSED;
    for (;;) {
        size_t missing = whole(reply) - reply->have;
        if (missing > 0 && reply->have == 0)
            missing = 1; /* the first byte decides the form */
        if (missing > size - *used)
            missing = size - *used;
        memcpy(reply->buffer + reply->have, data + *used, missing);
        reply->have += missing;
        *used += missing;
        if (reply->buffer[0] != 0x01 && reply->buffer[0] != 0x02)
            return HS_PROTOCOL_ERROR;
        if (reply->have >= 4 && u16(reply->buffer + 2) > HS_MAX_LENGTH)
            return HS_PROTOCOL_ERROR;
        if (reply->have == whole(reply))
            break;
        if (*used == size)
            return HS_MORE;
    }
    reply->form = reply->buffer[0];
    reply->code = reply->buffer[1];
    if (reply->form == 1)
        return reply->code == 0 ? HS_PROTOCOL_ERROR : HS_REFUSED;
    if (!read_fields(reply, reply->buffer + 4, reply->buffer + reply->have))
        return HS_PROTOCOL_ERROR;
    return reply->code == 0 ? HS_ESTABLISHED : HS_REFUSED;
}

void hs_lease_start(struct hs_lease *lease)
{
    memset(lease, 0, sizeof *lease);
    lease->state = HS_LEASED;
}

enum hs_lease_state hs_lease_feed(
    struct hs_lease *lease, const uint8_t *data, size_t size, hs_on_notice *on_notice, void *context)
{
    if (size == 0 && lease->state == HS_LEASED)
        lease->state = HS_RELEASED;
    while (size > 0 && lease->state == HS_LEASED) {
        size_t full = lease->have < 3 ? 3 : 3 + u16(lease->buffer + 1);
        size_t part = full - lease->have < size ? full - lease->have : size;
        memcpy(lease->buffer + lease->have, data, part);
        lease->have += part;
        data += part;
        size -= part;
        if (lease->have < 3)
            break;
        if (u16(lease->buffer + 1) > HS_MAX_LENGTH) {
            lease->state = HS_LEASE_ERROR;
            break;
        }
        if (lease->have < 3 + u16(lease->buffer + 1))
            continue;
        int kind = lease->buffer[0];
        if (kind == 0x01 || kind == 0x02)
            on_notice(kind, lease->buffer + 3, lease->have - 3, context);
        if (kind == 0x02)
            lease->state = HS_REVOKED;
        lease->have = 0;
    }
    return lease->state;
}
