// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice No record of this signing key under this policy. Register the node under it first, or
/// ask for the policy it is registered under.
error NodeUnknown(address signer, address policy);

/// @notice The answer was served when evidence for the node had run out. The node must be
/// registered again before it serves answers that are to count.
error NodeExpiredWhenServed(uint256 servedAt, uint256 expiry);

/// @notice The answer was served before the node's key was proved to this contract, or in an
/// earlier run of registrations that was interrupted. It cannot be accepted any more.
error ServedBeforeRegistration(uint256 servedAt, uint256 servedFrom);

/// @notice The answer claims to be of a time that has not come. Wait, or set the node's clock.
error ServedInFuture(uint256 servedAt, uint256 time);

/// @notice The policy ended all registrations at `time`. Register the node again, with a quote
/// made since and in a later block.
error EpochEnded(address policy, uint256 time);

/// @notice The policy has no seat of this number to give. Ask for an earlier one.
error NoSuchSeat(uint256 seat, uint256 count);

/// @notice Another node has this seat, and counts until `expiry`.
error SeatTaken(address signer, uint256 expiry);

/// @notice The node has a seat already, and needs no other.
error AlreadySeated(address signer, address policy);

/// @notice The node's registration ran out at `expiry` (Unix seconds). Register it again before
/// it takes a seat.
error NodeExpired(address signer, uint256 expiry);

/// @title What is remembered of a registered node: one storage slot
/// @notice Kept per signing key and policy, so that nobody can replace a node's record by
/// registering the same quote under a policy of their own. All times are Unix seconds.
abstract contract NodeRecords {
    /// @param servedFrom Answers served earlier were signed before the key was proved.
    /// @param renewedAt Time of the latest registration: it says which epoch the record is of.
    /// @param expiry Answers served at or after this time do not count: the earliest end of all
    /// collateral and of the keyset.
    struct Node {
        uint64 servedFrom;
        uint64 renewedAt;
        uint64 expiry;
    }

    /// @param signer Who has the seat.
    /// @param expiry When its record ends, or ended; from then on another node may take the seat.
    struct Seat {
        address signer;
        uint64 expiry;
    }

    /// @notice A policy has ended every registration made under it until now.
    event RegistrationsEnded(address indexed policy, uint256 time);

    /// @notice A node has a seat: its receipts are checked against one slot instead of two.
    event Seated(address indexed signer, address indexed policy, uint256 seat);

    /// @dev How many seats a policy has. Ending its registrations visits each that is taken, which
    /// takes 7,500 gas: a ninth of what a transaction may use (EIP-7825) where all are.
    uint256 private constant SEATS = 256;

    /// @dev Set in the record of every node that has a seat, and of no other. A record is a `Node`
    /// in one word, the first member lowest, 64 bits each, and this above them.
    uint256 private constant SEATED = 1 << 255;

    /// @dev When the policy last ended its registrations in the low 64 bits; in the next 64 the
    /// number of the block it did so in: quotes bound to an earlier one are refused; above them how
    /// many seats have been taken since.
    mapping(address policy => uint256) private _epochs;

    /// @dev Whose records `endEpoch` has to visit. Entries beyond the number of seats are left from
    /// earlier epochs, and mean nothing.
    mapping(address policy => mapping(uint256 seat => address signer)) private _seats;

    /// @notice Ends every registration under the calling policy, this block's included. Nodes that
    /// the policy still allows register again, with quotes that they make from now on: a quote
    /// bound to an earlier block stays refused, so nobody can bring an ended node back by
    /// submitting its registration a second time.
    function endEpoch() external {
        uint256 seats = _epochs[msg.sender] >> 128;
        for (uint256 seat; seat < seats; ++seat) {
            address signer = _seats[msg.sender][seat];
            _store(signer, msg.sender, _load(signer, msg.sender) & ~SEATED);
        }
        _epochs[msg.sender] = uint256(uint64(block.number)) << 64 | uint64(block.timestamp);
        emit RegistrationsEnded(msg.sender, block.timestamp);
    }

    /// @notice Gives a registered node a seat: whoever checks its receipts need not ask for the
    /// policy's epoch any more, since the end of the epoch takes the seat away. Anyone may call it:
    /// which answers count does not depend on it. A renewal keeps the seat.
    /// @param seat The next one free (see `seatedNodes`), or that of a node whose record has expired.
    function takeSeat(address signer, address policy, uint256 seat) external {
        uint256 node = _load(signer, policy);
        uint256 epoch = _epochs[policy];
        uint256 seats = epoch >> 128;
        if (node == 0) revert NodeUnknown(signer, policy);
        if (uint64(node >> 64) <= uint64(epoch)) revert EpochEnded(policy, uint64(epoch));
        if (node & SEATED != 0) revert AlreadySeated(signer, policy);
        // Else whoever has an expired record could hold every seat ahead of those that count.
        if (uint64(node >> 128) <= block.timestamp) {
            revert NodeExpired(signer, uint64(node >> 128));
        }
        if (seat > seats || seat >= SEATS) revert NoSuchSeat(seat, seats);
        if (seat == seats) {
            _epochs[policy] = epoch + (1 << 128);
        } else {
            // Not `signer` itself: it has no seat, as found above.
            address other = _seats[policy][seat];
            uint256 otherNode = _load(other, policy);
            uint256 expiry = uint64(otherNode >> 128);
            if (expiry > block.timestamp) revert SeatTaken(other, expiry);
            _store(other, policy, otherNode & ~SEATED);
        }
        _seats[policy][seat] = signer;
        _store(signer, policy, node | SEATED);
        emit Seated(signer, policy, seat);
    }

    /// @notice Who has the seats of a policy in its present epoch, the first seat first: the next
    /// one free is the one behind the last of these.
    function seatedNodes(address policy) external view returns (Seat[] memory seated) {
        seated = new Seat[](_epochs[policy] >> 128);
        for (uint256 seat; seat < seated.length; ++seat) {
            address signer = _seats[policy][seat];
            seated[seat] = Seat(signer, uint64(_load(signer, policy) >> 128));
        }
    }

    /// @notice The record of a signing key under a policy, whether it still counts or not; all
    /// zero where there is none.
    function nodeOf(address signer, address policy) external view returns (Node memory) {
        uint256 node = _load(signer, policy);
        return Node(uint64(node), uint64(node >> 64), uint64(node >> 128));
    }

    /// @notice Records renewed at or before this time no longer count for the policy.
    function epochEndedAt(address policy) external view returns (uint256 time) {
        return uint64(_epochs[policy]);
    }

    /// @dev Reverts unless an answer of this signer, served at `servedAt`, counts under `policy`:
    /// the record is of the policy's present epoch, and the time lies neither ahead, nor before
    /// the record's beginning, nor at or after its end. A record that has expired since still
    /// vouches for what was served before.
    function _requireServing(address signer, address policy, uint64 servedAt) internal view {
        uint256 node;
        bool counts;
        // `_load`, written out: this is the way of every receipt. A seat is taken away when the
        // epoch ends, so a record that has one is of the present; all else that is asked below is
        // asked here without a branch. The upper half of the record of a node that has a seat is
        // 1 << 127 and the expiry, and without the seat the expiry alone, which is less than that.
        assembly ("memory-safe") {
            mstore(0x15, policy)
            mstore(0x01, signer)
            mstore8(0x0c, 1)
            node := sload(keccak256(0x0c, 0x29))
            let inTime := lt(or(servedAt, shl(127, 1)), shr(128, node))
            let early := lt(servedAt, and(node, 0xffffffffffffffff))
            counts := gt(inTime, or(early, gt(servedAt, timestamp())))
        }
        if (counts) return;
        if (node == 0) revert NodeUnknown(signer, policy);
        uint256 ended = uint64(_epochs[policy]);
        if (uint64(node >> 64) <= ended) revert EpochEnded(policy, ended);
        if (servedAt > block.timestamp) revert ServedInFuture(servedAt, block.timestamp);
        if (servedAt < uint64(node)) revert ServedBeforeRegistration(servedAt, uint64(node));
        uint256 expiry = uint64(node >> 128);
        if (servedAt >= expiry) revert NodeExpiredWhenServed(servedAt, expiry);
    }

    /// @dev Where the record of a signer under a policy stands: a hash of 41 bytes, so that it is
    /// not that of any mapping's entry (64 bytes).
    function _slot(address signer, address policy) private pure returns (bytes32 slot) {
        // Writes the bytes 1 to 52, which are scratch space; each write covers what the one before
        // it wrote in excess.
        assembly ("memory-safe") {
            mstore(0x15, policy)
            mstore(0x01, signer)
            mstore8(0x0c, 1)
            slot := keccak256(0x0c, 0x29)
        }
    }

    function _load(address signer, address policy) private view returns (uint256 node) {
        bytes32 slot = _slot(signer, policy);
        assembly ("memory-safe") {
            node := sload(slot)
        }
    }

    function _store(address signer, address policy, uint256 node) private {
        bytes32 slot = _slot(signer, policy);
        assembly ("memory-safe") {
            sstore(slot, node)
        }
    }

    /// @dev Writes what a registration in this block proves, which is bound to block `quotedAt`.
    /// A record that is live and of this epoch keeps its beginning, and never gets an earlier end:
    /// whoever replays an older, still valid registration of the key cannot cut it short.
    function _renew(address signer, address policy, uint64 expiry, uint256 quotedAt)
        internal
        returns (uint64 recorded)
    {
        uint256 epoch = _epochs[policy];
        uint256 ended = uint64(epoch);
        if (block.timestamp <= ended || quotedAt < uint64(epoch >> 64)) {
            revert EpochEnded(policy, ended);
        }
        uint256 node = _load(signer, policy);
        uint256 servedFrom = block.timestamp;
        recorded = expiry;
        uint64 until = uint64(node >> 128);
        if (uint64(node >> 64) > ended && until > block.timestamp) {
            servedFrom = uint64(node);
            if (until > expiry) recorded = until;
        }
        _store(
            signer,
            policy,
            node & SEATED | uint256(recorded) << 128 | uint256(uint64(block.timestamp)) << 64
                | servedFrom
        );
    }
}
