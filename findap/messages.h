// messages.h: the conversations of JSONL rows, read into messages: what prepare trains on and genrm answers.
#ifndef FINDAP_MESSAGES_H
#define FINDAP_MESSAGES_H
#include "chat.h"   // defines: Message, chat_role, chat_trim
#include "json.h"   // defines: json_type_name

typedef struct { Message *items; int n, cap; } MessageList;   // strings belong to the JSON value

FN void message_add(MessageList *list, const char *role, const json_t *content) {
    if (list->n == list->cap) {
        list->cap = list->cap ? 2 * list->cap : 8;
        list->items = (Message *)xrealloc(list->items, list->cap, sizeof(Message));
    }
    Message m = {role, json_string_value(content), (int64_t)json_string_length(content)};
    list->items[list->n++] = m;
}

FN bool has_content(const char *text, int64_t length) { chat_trim(&text, &length); return length > 0; }

// one {"role", "content"} or {"from", "value"}
FN bool parse_message(const json_t *j, const char *field, int index, MessageList *list, Error *e) {
    static const char *const spellings[][2] = {{"human", "user"}, {"gpt", "assistant"}};
    if (!json_is_object(j)) return fail(e, "\"%s\"[%d] is %s, expected an object with role and content", field, index, json_type_name(j));
    bool from = !json_object_get(j, "role") && json_object_get(j, "from");
    const char *role_key = from ? "from" : "role", *content_key = from ? "value" : "content";
    const json_t *role = json_object_get(j, role_key), *content = json_object_get(j, content_key);
    if (!json_is_string(role)) return fail(e, "\"%s\"[%d].%s is %s, expected a string", field, index, role_key, json_type_name(role));
    if (!json_is_string(content)) return fail(e, "\"%s\"[%d].%s is %s, expected a string", field, index, content_key, json_type_name(content));
    const char *name = json_string_value(role);
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) if (from && strcmp(name, spellings[i][0]) == 0) name = spellings[i][1];
    int r = chat_role(name);
    if (r < 0 || strlen(json_string_value(role)) != json_string_length(role))
        return fail(e, "\"%s\"[%d].%s is \"%s\", expected system, user or assistant%s", field, index, role_key, name,
                    from ? " (or human, gpt)" : "");
    if (r != CHAT_SYSTEM && !has_content(json_string_value(content), (int64_t)json_string_length(content)))
        return fail(e, "\"%s\"[%d].%s is empty", field, index, content_key);
    message_add(list, chat_role_names[r], content);
    return true;
}

// a string (one message of role `role`), one message, or a list of messages
FN bool parse_messages(const json_t *row, const char *field, const char *role, MessageList *list, Error *e) {
    const json_t *j = json_object_get(row, field);
    if (role && json_is_string(j)) {
        if (!has_content(json_string_value(j), (int64_t)json_string_length(j))) return fail(e, "\"%s\" is empty", field);
        message_add(list, role, j);
        return true;
    }
    if (role && json_is_object(j)) return parse_message(j, field, 0, list, e);
    if (!json_is_array(j)) return fail(e, "\"%s\" is %s, expected %sa list of messages", field, json_type_name(j), role ? "a string or " : "");
    if (json_array_size(j) == 0) return fail(e, "\"%s\" is an empty list", field);
    if (json_array_size(j) > INT32_MAX / 2) return fail(e, "\"%s\" has too many messages", field);
    for (size_t i = 0; i < json_array_size(j); i++) if (!parse_message(json_array_get(j, i), field, (int)i, list, e)) return false;
    return true;
}

FN bool begins_well(const MessageList *list, const char *field, Error *e) {
    int first = 0;
    while (first < list->n && strcmp(list->items[first].role, "system") == 0) first++;
    if (first < list->n && strcmp(list->items[first].role, "user") == 0) return true;
    if (first == list->n) return fail(e, "\"%s\" has no user turn", field);
    return fail(e, "\"%s\"[%d] is an assistant turn that answers nothing, expected a user turn", field, first);
}

#endif
