// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

import {TcbStatus} from "./TcbStatus.sol";

/// @notice The delay is more than a year. Deploy with a shorter one.
error DelayTooLong(uint256 delay);

/// @notice A status that cannot be allowed: Revoked, or a bit that is no status.
error StatusesInvalid(uint16 statuses);

/// @notice The id is already allowed, or will be at `from`.
error AlreadyAllowed(bytes32 id, uint256 from);

/// @notice The id is neither allowed nor waiting to be: there is nothing to take back.
error NotListed(bytes32 id);

/// @notice The list holds as many ids as it can: disallow some first.
error ListFull(uint256 most);

/// @title What may run: a list of ids and the TCB it may run on, set by an owner
/// @notice Whoever relies on this list is told of anything it will newly accept `delay` seconds
/// before it does: new ids, more statuses, a lower evaluation number. What it accepts no longer
/// takes effect at once. Without an owner (`renounceOwnership`) it never changes again, but for
/// what was already announced. Nothing is allowed at deployment.
///
/// Each id's slot repeats the rules in force, so that a question costs one cold read; the owner
/// pays for it when rules change.
abstract contract AllowList is Ownable2Step {
    uint16 private constant ALL_STATUSES = uint16((1 << TcbStatus.REVOKED) - 1);
    uint256 private constant MOST_IDS = 128;
    uint256 private constant RULES = (1 << 128) - 1;

    /// @notice Seconds between announcing and accepting; zero leaves the time to the owner.
    uint256 public immutable delay;

    /// @dev Statuses (16 bits), least evaluation (16), both again as they will be (32), and from
    /// when (64; Unix seconds). Where nothing waits, both pairs are the same and the time is zero.
    uint256 private _rules;

    /// @dev The rules, and above them when the id is accepted from; zero for an id not listed.
    mapping(bytes32 id => uint256) private _entries;

    bytes32[] private _ids;

    /// @notice The id is accepted from this time on.
    event Allowed(bytes32 indexed id, uint256 from);

    /// @notice The id is no longer accepted, as of this event.
    event Disallowed(bytes32 indexed id);

    /// @notice Only these statuses and evaluations are accepted from this time on; until then,
    /// of what was accepted before, that which is also accepted after.
    event TcbRulesSet(uint16 statuses, uint16 minimumEvaluation, uint256 from);

    /// @param owner Who may change the list; zero is refused, renouncing comes later.
    /// @param delay_ Seconds, a year at most.
    /// @param statuses Bit mask of `TcbStatus`: every status found must be in it.
    /// @param minimumEvaluation The least tcbEvaluationDataNumber.
    constructor(address owner, uint256 delay_, uint16 statuses, uint16 minimumEvaluation)
        Ownable(owner)
    {
        if (delay_ > 365 days) revert DelayTooLong(delay_);
        delay = delay_;
        _requireStatuses(statuses);
        uint256 rules = _pair(statuses, minimumEvaluation);
        _rules = rules << 32 | rules;
        emit TcbRulesSet(statuses, minimumEvaluation, block.timestamp);
    }

    /// @notice Accept an id, once the delay has passed.
    function allow(bytes32 id) external onlyOwner {
        uint256 from = allowedFrom(id);
        if (from != 0) revert AlreadyAllowed(id, from);
        if (_ids.length == MOST_IDS) revert ListFull(MOST_IDS);
        from = block.timestamp + delay;
        _ids.push(id);
        _entries[id] = from << 128 | _rules;
        emit Allowed(id, from);
    }

    /// @notice Stop accepting an id at once, or withdraw the announcement that it will be.
    function disallow(bytes32 id) external onlyOwner {
        if (_entries[id] == 0) revert NotListed(id);
        delete _entries[id];
        uint256 last = _ids.length - 1;
        for (uint256 i = 0; i < last; ++i) {
            if (_ids[i] == id) _ids[i] = _ids[last];
        }
        _ids.pop();
        emit Disallowed(id);
        _tightened();
    }

    /// @notice Set the statuses and the least evaluation number accepted. What they exclude that
    /// was accepted is excluded at once; what they add waits for the delay.
    function setTcbRules(uint16 statuses, uint16 minimumEvaluation) external onlyOwner {
        _requireStatuses(statuses);
        (uint16 nowStatuses, uint16 nowMinimum) = tcbRules();
        uint16 both = nowStatuses & statuses;
        uint16 higher = nowMinimum > minimumEvaluation ? nowMinimum : minimumEvaluation;
        uint256 soon = _pair(both, higher);
        uint256 then = _pair(statuses, minimumEvaluation);
        uint256 from = soon == then ? block.timestamp : block.timestamp + delay;
        uint256 rules = (soon == then ? 0 : from) << 64 | then << 32 | soon;
        _rules = rules;
        for (uint256 i = 0; i < _ids.length; ++i) {
            uint256 entry = _entries[_ids[i]];
            _entries[_ids[i]] = entry & ~RULES | rules;
        }
        emit TcbRulesSet(statuses, minimumEvaluation, from);
        if (soon != _pair(nowStatuses, nowMinimum)) _tightened();
    }

    /// @notice When the id is or was accepted from (Unix seconds); zero for one not listed.
    function allowedFrom(bytes32 id) public view returns (uint256 time) {
        return _entries[id] >> 128;
    }

    /// @notice Every id that is accepted or will be.
    function allowedIds() external view returns (bytes32[] memory) {
        return _ids;
    }

    /// @notice The statuses and the least evaluation number accepted now.
    function tcbRules() public view returns (uint16 statuses, uint16 minimumEvaluation) {
        return _inForce(_rules);
    }

    /// @notice The statuses and the least evaluation number as last set, and since or from when;
    /// zero where they were in force at once.
    function announcedTcbRules()
        external
        view
        returns (uint16 statuses, uint16 minimumEvaluation, uint256 from)
    {
        uint256 rules = _rules;
        return (uint16(rules >> 32), uint16(rules >> 48), rules >> 64);
    }

    /// @dev When an id is accepted from, zero for never, and the rules in force.
    function _entry(bytes32 id)
        internal
        view
        returns (uint256 from, uint16 statuses, uint16 minimumEvaluation)
    {
        uint256 entry = _entries[id];
        from = entry >> 128;
        (statuses, minimumEvaluation) = _inForce(entry);
    }

    /// @dev Called after anything that was accepted no longer is.
    function _tightened() internal virtual;

    function _inForce(uint256 rules) private view returns (uint16, uint16) {
        if (uint64(rules >> 64) <= block.timestamp) rules >>= 32;
        return (uint16(rules), uint16(rules >> 16));
    }

    function _pair(uint16 statuses, uint16 minimumEvaluation) private pure returns (uint256) {
        return uint256(minimumEvaluation) << 16 | statuses;
    }

    function _requireStatuses(uint16 statuses) private pure {
        if (statuses & ~ALL_STATUSES != 0) revert StatusesInvalid(statuses);
    }
}
