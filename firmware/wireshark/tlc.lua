-- SPDX-License-Identifier: Apache-2.0
--
-- tlc.lua: Wireshark's dissector for the link (PROTOCOL.md), for captures made with --capture: link type USER0, one
-- packet for each piece of bytes between two zeros, still in COBS.
--
--     wireshark -X lua_script:tlc.lua line.pcapng
--     tshark -X lua_script:tlc.lua -r line.pcapng -Y 'tlc.message == "STEP"'

local tlc = Proto("tlc", "tlc link")

local HEADER = 28
local FRAMES = { [1] = "ANNOUNCE", [2] = "OPEN", [3] = "ACCEPT", [4] = "END", [5] = "ACK" }
local STREAMS = { [0] = "control", [1] = "bulk", [2] = "log" }
local REASONS = { [0] = "UNKNOWN", [1] = "SUPERSEDED", [2] = "CLOSED", [3] = "VERSION" }
local MESSAGES = {
    [0x10] = "HELLO", [0x11] = "WELCOME", [0x12] = "REFUSE", [0x20] = "FORWARD", [0x21] = "SMASHED", [0x22] = "RESULT",
    [0x23] = "BACKWARD", [0x24] = "STEP", [0x25] = "GET_PARAMS", [0x26] = "PARAMS", [0x27] = "SET_PARAMS",
    [0x28] = "GET_STATS", [0x29] = "STATS", [0x2A] = "LAYERS", [0x2B] = "RESET_STATE", [0x2C] = "DONE",
    [0x2D] = "ERROR", [0x2E] = "LOG", [0x2F] = "TEST", [0x30] = "SAVE", [0x31] = "JOURNAL", [0x32] = "TRAIN",
    [0x33] = "TRAINED", [0x34] = "TAIL", [0x35] = "GRADIENT", [0x36] = "EXIT",
    [0x37] = "CUT",
}
-- from the 16 bytes that every message begins with to the text of ERROR and LOG
local TEXT_AT = { [0x2D] = 20, [0x2E] = 20 }

local f = {
    version = ProtoField.uint8("tlc.version", "Version"),
    type = ProtoField.uint8("tlc.type", "Type", base.HEX),
    name = ProtoField.string("tlc.message", "Name"),
    stream = ProtoField.uint8("tlc.stream", "Stream", base.DEC, STREAMS, 0x0F),
    secure = ProtoField.bool("tlc.secure", "SECURE", 8, nil, 0x10),
    ack_now = ProtoField.bool("tlc.ack_now", "ACK_NOW", 8, nil, 0x20),
    busy = ProtoField.bool("tlc.busy", "BUSY", 8, nil, 0x40),
    credit = ProtoField.uint24("tlc.credit", "Credit"),
    counter = ProtoField.uint16("tlc.counter", "Counter"),
    session = ProtoField.uint32("tlc.session", "Session", base.HEX),
    sequence = ProtoField.uint16("tlc.sequence", "Sequence"),
    acknowledge = ProtoField.uint16("tlc.acknowledge", "Acknowledge"),
    selective = ProtoField.uint32("tlc.selective", "Selective", base.HEX),
    number = ProtoField.uint16("tlc.number", "Message number"),
    offset = ProtoField.uint24("tlc.offset", "Offset"),
    length = ProtoField.uint24("tlc.length", "Message length"),
    payload = ProtoField.bytes("tlc.payload", "Payload"),
    crc = ProtoField.uint32("tlc.crc", "CRC-32", base.HEX),
    request = ProtoField.uint32("tlc.request", "Request"),
    round = ProtoField.uint32("tlc.round", "Round"),
    step = ProtoField.uint32("tlc.step", "Step"),
    batch = ProtoField.uint32("tlc.batch", "Batch"),
    text = ProtoField.string("tlc.text", "Text"),
    nonce = ProtoField.uint32("tlc.nonce", "Nonce", base.HEX),
    boot = ProtoField.uint32("tlc.boot", "Boot", base.HEX),
    fragment = ProtoField.uint16("tlc.fragment", "Largest fragment"),
    window = ProtoField.uint8("tlc.window", "Window"),
    security = ProtoField.uint8("tlc.security", "Security"),
    max_message = ProtoField.uint32("tlc.max_message", "Largest message"),
    unit = ProtoField.uint32("tlc.unit", "Unit of credit"),
    control = ProtoField.uint16("tlc.control", "Largest control message"),
    keepalive = ProtoField.uint16("tlc.keepalive", "Keep-alive, ms"),
    reason = ProtoField.uint8("tlc.reason", "Reason", base.DEC, REASONS),
    lowest = ProtoField.uint8("tlc.lowest", "Lowest version"),
    highest = ProtoField.uint8("tlc.highest", "Highest version"),
}
tlc.fields = f

local damaged = ProtoExpert.new("tlc.damaged", "Damaged", expert.group.CHECKSUM, expert.severity.WARN)
tlc.experts = { damaged }

-- The bytes that COBS stands for; nil where it is none.
local function decode(bytes)
    local out, at, count = {}, 0, bytes:len()
    while at < count do
        local code = bytes:get_index(at)
        if code == 0 or at + code > count then
            return nil
        end
        for i = at + 1, at + code - 1 do
            out[#out + 1] = string.char(bytes:get_index(i))
        end
        at = at + code
        if code < 255 and at < count then
            out[#out + 1] = "\0"
        end
    end
    return table.concat(out)
end

local crc_table = {}
for n = 0, 255 do
    local c = n
    for _ = 1, 8 do
        local low = bit.band(c, 1)
        c = bit.rshift(c, 1)
        if low == 1 then
            c = bit.bxor(c, 0xEDB88320)
        end
    end
    crc_table[n] = c
end

local function crc32(text, count)
    local c = bit.bnot(0)
    for i = 1, count do
        c = bit.bxor(bit.rshift(c, 8), crc_table[bit.band(bit.bxor(c, text:byte(i)), 0xFF)])
    end
    return bit.tohex(bit.bnot(c))
end

local function add_offer(tree, body)
    tree:add_le(f.nonce, body(0, 4))
    tree:add_le(f.boot, body(4, 4))
    tree:add_le(f.fragment, body(8, 2))
    tree:add_le(f.window, body(10, 1))
    tree:add_le(f.security, body(11, 1))
    tree:add_le(f.max_message, body(12, 4))
    tree:add_le(f.unit, body(16, 4))
    tree:add_le(f.control, body(20, 2))
    tree:add_le(f.keepalive, body(22, 2))
end

function tlc.dissector(wire, pinfo, root)
    pinfo.cols.protocol = "tlc"
    local text = decode(wire:bytes())
    if text == nil or #text < HEADER + 4 then
        local tree = root:add(tlc, wire(), "tlc link: no frame")
        tree:add_proto_expert_info(damaged, text and "too short for a frame" or "no valid COBS")
        pinfo.cols.info = "damaged"
        return wire:len()
    end
    local size = #text - 4
    local frame = ByteArray.new(text, true):tvb("Frame")
    local tree = root:add(tlc, frame())
    local kind = frame(1, 1):uint()
    local name = kind < 16 and FRAMES[kind] or MESSAGES[kind] or string.format("0x%02X", kind)
    tree:add(f.version, frame(0, 1))
    tree:add(f.type, frame(1, 1))
    tree:add(f.name, frame(1, 1), name)
    tree:add(f.stream, frame(2, 1))
    tree:add(f.secure, frame(2, 1))
    tree:add(f.ack_now, frame(2, 1))
    tree:add(f.busy, frame(2, 1))
    tree:add_le(f.credit, frame(3, 3))
    tree:add_le(f.counter, frame(6, 2))
    tree:add_le(f.session, frame(8, 4))
    tree:add_le(f.sequence, frame(12, 2))
    tree:add_le(f.acknowledge, frame(14, 2))
    tree:add_le(f.selective, frame(16, 4))
    tree:add_le(f.number, frame(20, 2))
    tree:add_le(f.offset, frame(22, 3))
    tree:add_le(f.length, frame(25, 3))
    tree:add_le(f.crc, frame(size, 4))
    if crc32(text, size) ~= string.format("%08x", frame(size, 4):le_uint()) then
        tree:add_proto_expert_info(damaged, "wrong CRC")
        pinfo.cols.info = "damaged"
        return wire:len()
    end
    local info = name
    if size > HEADER then
        local body = frame(HEADER, size - HEADER)
        tree:add(f.payload, body)
        if (kind == 2 or kind == 3) and body:len() >= 24 then
            add_offer(tree, body)
        elseif kind == 4 and body:len() >= 3 then
            tree:add(f.reason, body(0, 1))
            tree:add(f.lowest, body(1, 1))
            tree:add(f.highest, body(2, 1))
            info = info .. " " .. (REASONS[body(0, 1):uint()] or "")
        elseif kind == 1 and body:len() >= 4 then
            tree:add_le(f.boot, body(0, 4))
        elseif kind >= 16 and frame(22, 3):le_uint() == 0 and body:len() >= 16 then
            tree:add_le(f.request, body(0, 4))
            tree:add_le(f.round, body(4, 4))
            tree:add_le(f.step, body(8, 4))
            tree:add_le(f.batch, body(12, 4))
            info = string.format("%s request %d", info, body(0, 4):le_uint())
            local at = TEXT_AT[kind]
            if at ~= nil and body:len() > at then
                tree:add(f.text, body(at, body:len() - at))
                info = info .. ": " .. body(at, body:len() - at):string()
            end
        end
        if kind >= 16 then
            local first = frame(22, 3):le_uint()
            info = string.format("%s [%d..%d of %d]", info, first, first + body:len() - 1, frame(25, 3):le_uint())
        end
    end
    pinfo.cols.info = string.format("%s  session %08x", info, frame(8, 4):le_uint())
    return wire:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, tlc)
